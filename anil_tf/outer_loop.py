"""The outer loop: what `fit` and `evaluate` do with a model's predictions for its tasks."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from anil_tf import keras_private, losses
from anil_tf.distribution import DistributedFit


class Predictions(NamedTuple):
    """Logits `[T, Q, ways]` of the queries.

    Args:
        before: Logits before adaptation; None in training where they cost an extra pass.
        after: Logits after adaptation.
    """

    before: Any
    after: tf.Tensor


class OuterLoop(DistributedFit):
    """Keras's protocol for a model that predicts the queries of tasks: steps, loss and metrics.

    The subclass defines `adapt_and_predict`, the loss of the queries, and a metric of the logits
    before adaptation.
    """

    adapt_and_predict: Callable[..., Predictions]
    _query_loss: losses.QueryLoss
    _before: keras.metrics.Metric

    def _build_for(self, inputs: dict[str, tf.Tensor]) -> None:
        # `fit` and `evaluate` call the model's parts, which build nothing by themselves.
        if not self.built:
            self.build({name: tuple(value.shape) for name, value in inputs.items()})

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> tf.Tensor:
        """The loss given to `compile`, else that of the inner loop, averaged over the queries."""
        if self.loss is not None:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        loss = self._query_loss(y, y_pred, sample_weight)
        extra = [keras_private.aggregate_additional_loss(self, each) for each in self.losses]
        return tf.add_n([loss, *extra])

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """One outer step: an outer tape around the inner loop of every task of the batch."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        self._build_for(x)
        gradients, loss, before, y_pred = self.outer_gradients(x, y, sample_weight)
        with forgetting_gradients():
            self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        return self._update_metrics(x, y, before, y_pred, loss, sample_weight)

    def outer_gradients(self, x: Any, y: Any, sample_weight: Any = None) -> tuple[Any, ...]:
        """Gradients of the (scaled) loss by the trainable weights, the loss, and predictions."""
        with tf.GradientTape() as tape:
            before, y_pred = self.adapt_and_predict(x, training=True)
            loss = keras_private.compute_loss(self, x, y, y_pred, sample_weight, training=True)
            scaled_loss = self.optimizer.scale_loss(loss)
        return tape.gradient(scaled_loss, self.trainable_weights), loss, before, y_pred

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Loss and metrics of a batch of tasks, before and after adaptation."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        self._build_for(x)
        before, y_pred = self.adapt_and_predict(x, training=False)
        loss = keras_private.compute_loss(self, x, y, y_pred, sample_weight, training=False)
        return self._update_metrics(x, y, before, y_pred, loss, sample_weight)

    def _update_metrics(
        self, x: Any, y: Any, before: Any, after: tf.Tensor, loss: tf.Tensor, weight: Any
    ) -> dict[str, tf.Tensor]:
        # Keras divides the loss by the replicas so that gradients add up; the report is the mean.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        tracker = keras_private.loss_tracker(self)
        tracker.update_state(loss * replicas, sample_weight=tf.shape(after)[0])
        if before is not None:
            self._before.update_state(y, before, weight)
        metrics = self.compute_metrics(x, y, after, sample_weight=weight)
        if before is None:
            del metrics[self._before.name]
        return metrics


@contextlib.contextmanager
def forgetting_gradients() -> Iterator[None]:
    """Context manager that discards the gradient functions that TensorFlow registers inside it.

    Use it around the optimizer's update only. Every Keras optimizer calls `all_reduce`, whose
    gradient function TensorFlow registers for each trace and keeps forever, and the whole traced
    step with it: 5 to 12 MB for each model trained. Nobody differentiates through the outer update.
    """
    functions = keras_private.gradient_functions()
    known = set(functions)
    try:
        yield
    finally:
        for name in set(functions) - known:
            functions.pop(name, None)  # replicas are traced side by side
