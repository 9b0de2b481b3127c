"""The outer loop: what `fit` and `evaluate` do with a model's answers to its tasks."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.framework.ops import gradient_registry

from anil_tf import losses
from anil_tf.distribution import DistributedFit

# Logits before and after adaptation; the first is left out of training where it costs a pass.
Answers = tuple[Any, tf.Tensor]


class OuterLoop(DistributedFit):
    """Keras's protocol for a model that answers tasks: its steps, loss and metrics.

    The subclass has `answer`, the inner loop's loss of the queries, and a metric of the logits
    before adaptation.
    """

    answer: Callable[..., Answers]
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
        """The loss given to `compile`, else the inner loop's, averaged over the queries."""
        if self.loss is not None:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        loss = self._query_loss(y, y_pred, sample_weight)
        return tf.add_n([loss, *map(self._aggregate_additional_loss, self.losses)])

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """One outer step: an outer tape around the inner loop of every task of the batch."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        self._build_for(x)
        gradients, loss, before, y_pred = self.outer_gradients(x, y, sample_weight)
        with forgetting_gradients():
            self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        return self._update_metrics(x, y, before, y_pred, loss, sample_weight)

    def outer_gradients(self, x: Any, y: Any, sample_weight: Any = None) -> tuple[Any, ...]:
        """Gradients of the (scaled) loss by the trainable weights; loss; `answer`'s logits."""
        with tf.GradientTape() as tape:
            before, y_pred = self.answer(x, training=True)
            loss = self._compute_loss(x, y, y_pred, sample_weight, training=True)
            scaled_loss = self.optimizer.scale_loss(loss)
        return tape.gradient(scaled_loss, self.trainable_weights), loss, before, y_pred

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Loss and metrics of a batch of tasks, before and after adaptation."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        self._build_for(x)
        before, y_pred = self.answer(x, training=False)
        loss = self._compute_loss(x, y, y_pred, sample_weight, training=False)
        return self._update_metrics(x, y, before, y_pred, loss, sample_weight)

    def _update_metrics(
        self, x: Any, y: Any, before: Any, after: tf.Tensor, loss: tf.Tensor, weight: Any
    ) -> dict[str, tf.Tensor]:
        # Keras divides the loss by the replicas so that gradients add up; the report is the mean.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        self._loss_tracker.update_state(loss * replicas, sample_weight=tf.shape(after)[0])
        if before is not None:
            self._before.update_state(y, before, weight)
        figures = self.compute_metrics(x, y, after, sample_weight=weight)
        if before is None:
            del figures[self._before.name]
        return figures


@contextlib.contextmanager
def forgetting_gradients() -> Iterator[None]:
    """Within it TensorFlow keeps no gradient function of what is traced; for the outer update.

    Every Keras optimizer calls `all_reduce`, whose gradient TensorFlow registers for each trace and
    never gives up, and the whole traced step with it: 5 to 12 MB a model trained. Nobody
    differentiates through the outer update, so the entry can go.
    """
    functions = gradient_registry._registry
    known = set(functions)
    try:
        yield
    finally:
        for name in set(functions) - known:
            functions.pop(name, None)  # replicas are traced side by side
