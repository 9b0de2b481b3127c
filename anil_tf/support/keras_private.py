"""Every private name of Keras and TensorFlow that the project uses, in one place.

A private name can change in any release. `PRIVATE_NAMES` lists them with the reason for each, and
a test reads each one from the installed version and names the one that has vanished. They were
seen in Keras 3.12 to 3.15 and TensorFlow 2.18 to 2.21.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import keras
import tensorflow as tf
from tensorflow.python.framework.ops import gradient_registry

PRIVATE_NAMES = {
    "keras.Model._compute_loss": "Calls `compute_loss` of a subclass that lacks `training`.",
    "keras.Model._aggregate_additional_loss": "Scales a regularisation loss for the replicas.",
    "keras.Model._loss_tracker": "The metric `loss` that a custom `train_step` has to update.",
    "keras.Model._flatten_layers": "Lists the layers of a model, nested ones included.",
    "keras.Model._get_node_attribute_at_index": "Reads what a nested model returns.",
    "keras.Model._symbolic_build": "Creates the metrics' variables before a checkpoint is read.",
    "keras.Model._maybe_symbolic_build": "Overridden: it fails on several machines.",
    "keras.Model._distribute_strategy": "The strategy of a model, None if there is none.",
    "keras.metrics.Metric._direction": "Read by EarlyStopping: whether more of a metric is better.",
    "tf.distribute.StrategyExtended._in_multi_worker_mode": "Whether there are several machines.",
    "gradient_registry._registry": "Keeps the gradient function of every traced optimizer step.",
}

MetricClass = TypeVar("MetricClass", bound=type[keras.metrics.Metric])


def compute_loss(model: keras.Model, *args: Any, training: bool) -> tf.Tensor:
    """The model's loss, also where a subclass overrides `compute_loss` without `training`."""
    return model._compute_loss(*args, training=training)


def aggregate_additional_loss(model: keras.Model, loss: tf.Tensor) -> tf.Tensor:
    """A loss of a layer, such as a regularisation, scaled for the number of replicas."""
    return model._aggregate_additional_loss(loss)


def loss_tracker(model: keras.Model) -> keras.metrics.Metric:
    """The metric that `fit` and `evaluate` report as `loss`."""
    return model._loss_tracker


def flatten_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """All layers of a model, those of nested models included."""
    return list(model._flatten_layers())


def output_of(layer: keras.layers.Layer) -> keras.KerasTensor:
    """The output of a layer in the graph that it is a part of.

    Where the layer is itself a model, `layer.output` is that of its own graph.
    """
    return layer._get_node_attribute_at_index(0, "output_tensors", "output")


def build_metrics(model: keras.Model, batch: Any) -> None:
    """Creates the variables of the model's metrics from the shapes of one batch."""
    model._symbolic_build(data_batch=batch)


def better(direction: str) -> Callable[[MetricClass], MetricClass]:
    """Class decorator that tells `EarlyStopping` which values of a metric are better.

    Args:
        direction: `"up"` where larger values are better, `"down"` where smaller ones are.
    """

    def mark(metric: MetricClass) -> MetricClass:
        metric._direction = direction
        return metric

    return mark


def on_several_machines(strategy: tf.distribute.Strategy) -> bool:
    """Whether a multi-worker strategy has more than one machine."""
    return strategy.extended._in_multi_worker_mode()


def gradient_functions() -> dict[str, Any]:
    """TensorFlow's own dictionary of gradient functions, by name; may be changed in place."""
    return gradient_registry._registry


class SafelyBuiltModel(keras.Model):
    """A Keras model whose first step also builds under `MultiWorkerMirroredStrategy`.

    Keras reduces the first batch over the replicas to learn its shapes, which fails for nested
    batches on several machines. Here the shapes come from the batch of the first local replica.
    """

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        strategy = self._distribute_strategy
        if strategy is not None and iterator is not None:
            for _, _, batches in iterator:
                data_batch = tf.nest.map_structure(
                    lambda value: strategy.experimental_local_results(value)[0], next(batches)
                )
                break
        super()._maybe_symbolic_build(data_batch=data_batch)
