"""Makes `fit` and `evaluate` work under every `tf.distribute` strategy.

A model made in the scope of a strategy trains by `fit` as usual: each replica takes its share of a
meta-batch's tasks, and gradients, metrics and, with `norm="batch"`, the statistics of the images
are those of the whole meta-batch. Keras 3's own trainer fails under `MultiWorkerMirroredStrategy`
in two places, even with one Dense layer: it averages a nested batch to learn its shapes, and it
averages metrics along an axis that a scalar does not have. XLA cannot compile a step that contains
the exchange between replicas.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from anil_tf.embedding import Embedding
from anil_tf.support import keras_private


class DistributedFit(keras_private.SafelyBuiltModel):
    """A Keras model whose `fit` and `evaluate` work under every strategy.

    With `jit_compile=True` under a strategy, XLA compiles what each replica computes by itself:
    the method `outer_gradients(x, y, sample_weight)` of the subclass.
    """

    embedding: Embedding
    train_function: Any
    test_function: Any
    outer_gradients: Callable[..., tuple[Any, ...]]

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Trains the model; arguments and result are those of `keras.Model.fit`."""
        with self._whole_batch_statistics():
            return super().fit(*args, **kwargs)

    def make_train_function(self, force: bool = False) -> Any:
        """Makes the function of a training step: Keras's, or our own where Keras's fails."""
        if self._keras_distributes():
            return super().make_train_function(force)
        if self.train_function is None or force:
            if self.jit_compile:
                self.outer_gradients = tf.function(self.outer_gradients, jit_compile=True)
            self.train_function = self._distributed(self.train_step)
        return self.train_function

    def make_test_function(self, force: bool = False) -> Any:
        """Makes the function of an evaluation step: Keras's, or our own where Keras's fails."""
        if self._keras_distributes():
            return super().make_test_function(force)
        if self.test_function is None or force:
            self.test_function = self._distributed(self.test_step)
        return self.test_function

    def _keras_distributes(self) -> bool:
        several = self.distribute_strategy.num_replicas_in_sync > 1
        return not (in_cluster(self.distribute_strategy) or (several and self.jit_compile))

    def _distributed(self, step: Callable[[Any], dict[str, tf.Tensor]]) -> Callable[[Any], Any]:
        strategy = self.distribute_strategy
        if self.steps_per_execution != 1:
            raise ValueError(
                "steps_per_execution must be 1 on several machines, and on several devices with "
                f"jit_compile=True. Received: steps_per_execution={self.steps_per_execution}"
            )
        names: list[str] = []

        def replica_step(data: Any) -> tf.Tensor:
            metrics = step(data)
            names[:] = metrics  # known once this function is traced
            return tf.stack([tf.cast(metric, tf.float32) for metric in metrics.values()])

        def one_step(iterator: Any) -> dict[str, tf.Tensor]:
            stacked = strategy.run(replica_step, args=(next(iterator),))
            # All metrics in one exchange; those of a replica are of its share of the tasks.
            mean = strategy.reduce(tf.distribute.ReduceOp.MEAN, stacked, axis=None)
            return dict(zip(names, tf.unstack(mean), strict=True))

        if self.run_eagerly:
            return one_step
        return tf.function(one_step, reduce_retracing=True, autograph=False)

    @contextlib.contextmanager
    def _whole_batch_statistics(self) -> Iterator[None]:
        """Context manager that makes batch normalisation use the images of all replicas."""
        layers = [
            layer
            for layer in keras_private.flatten_layers(self)
            if isinstance(layer, keras.layers.BatchNormalization) and not layer.synchronized
        ]
        several = self.distribute_strategy.num_replicas_in_sync > 1
        if not (self.embedding.spans_replicas and several):
            layers = []
        if layers and self.jit_compile:
            raise ValueError(
                "With norm='batch' the replicas exchange statistics within their pass, which "
                "jit_compile=True cannot compile: leave it out, or use norm='support' or 'task'"
            )
        for layer in layers:
            layer.synchronized = True
        try:
            yield
        finally:
            for layer in layers:
                layer.synchronized = False


def in_cluster(strategy: tf.distribute.Strategy) -> bool:
    """Whether the strategy's replicas are on several machines."""
    return isinstance(
        strategy, tf.distribute.MultiWorkerMirroredStrategy
    ) and keras_private.on_several_machines(strategy)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes files: it is the only one, the chief, or worker 0."""
    resolver = strategy.cluster_resolver
    if not in_cluster(strategy) or resolver is None:
        return True
    has_chief = "chief" in resolver.cluster_spec().jobs
    return resolver.task_type == "chief" or (not has_chief and resolver.task_id == 0)
