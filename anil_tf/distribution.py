"""`fit` and `evaluate` on several devices and machines, past the places where Keras 3 stops.

A model made in the scope of a `tf.distribute` strategy trains by `fit` as ever: each replica takes
its share of a meta-batch's tasks, and gradients, figures and, with `norm="batch"`, the statistics
of the images are those of the whole meta-batch. Two places of Keras 3's own trainer do not get
through `MultiWorkerMirroredStrategy`, not even with one Dense layer: it averages a nested batch to
learn its shapes, and averages figures along an axis that a scalar does not have. Nor does XLA
compile a step with the exchange between replicas in it.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf


class DistributedFit(keras.Model):
    """A Keras model whose `fit` and `evaluate` get through every strategy.

    With `jit_compile=True` under a strategy, XLA compiles what each replica computes by itself:
    `outer_gradients`, which the subclass has, of `(x, y, sample_weight)`.
    """

    norm: str
    train_function: Any
    test_function: Any
    outer_gradients: Callable[..., tuple[Any, ...]]

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """As of Keras."""
        with self._whole_batch_statistics():
            return super().fit(*args, **kwargs)

    def make_train_function(self, force: bool = False) -> Any:
        """As of Keras; a function of our own where Keras's fails."""
        if self._keras_distributes():
            return super().make_train_function(force)
        if self.train_function is None or force:
            if self.jit_compile:
                self.outer_gradients = tf.function(self.outer_gradients, jit_compile=True)
            self.train_function = self._distributed(self.train_step)
        return self.train_function

    def make_test_function(self, force: bool = False) -> Any:
        """As of Keras; a function of our own where Keras's fails."""
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
            figures = step(data)
            names[:] = figures
            return tf.stack([tf.cast(figure, tf.float32) for figure in figures.values()])

        def one_step(iterator: Any) -> dict[str, tf.Tensor]:
            stacked = strategy.run(replica_step, args=(next(iterator),))
            # All figures in one exchange; a replica's own are of its share of the tasks.
            mean = strategy.reduce(tf.distribute.ReduceOp.MEAN, stacked, axis=None)
            return dict(zip(names, tf.unstack(mean), strict=True))

        if self.run_eagerly:
            return one_step
        return tf.function(one_step, reduce_retracing=True, autograph=False)

    @contextlib.contextmanager
    def _whole_batch_statistics(self) -> Iterator[None]:
        """Within it batch normalisation takes its statistics over the images of all replicas."""
        layers = [
            layer
            for layer in self._flatten_layers()
            if isinstance(layer, keras.layers.BatchNormalization) and not layer.synchronized
        ]
        several = self.distribute_strategy.num_replicas_in_sync > 1
        if self.norm != "batch" or not several:  # a task's own statistics need no exchange
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

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        strategy = self._distribute_strategy
        if strategy is not None and iterator is not None:
            for _, _, batches in iterator:
                data_batch = tf.nest.map_structure(
                    lambda value: strategy.experimental_local_results(value)[0], next(batches)
                )
                break
        super()._maybe_symbolic_build(data_batch=data_batch)


def in_cluster(strategy: tf.distribute.Strategy) -> bool:
    """Whether the strategy's replicas are on several machines."""
    return (
        isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        and strategy.extended._in_multi_worker_mode()
    )


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes: the only one, the chief, or worker 0."""
    resolver = strategy.cluster_resolver
    if not in_cluster(strategy) or resolver is None:
        return True
    has_chief = "chief" in resolver.cluster_spec().jobs
    return resolver.task_type == "chief" or (not has_chief and resolver.task_id == 0)
