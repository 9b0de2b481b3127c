"""Losses of one row, as the inner and the outer loop use them."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

RowLoss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


@keras.saving.register_keras_serializable(package="anil_tf")
def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Softmax cross-entropy of integer labels.

    A label outside `0..N-1` has an all-zero one-hot row, so its loss and its gradient are zero:
    this is how padding rows are left out.

    Args:
        labels: Integers, `[..., M]`.
        logits: Floats, `[..., M, N]`.

    Returns:
        The loss of each row, `[..., M]`.
    """
    one_hot = tf.one_hot(tf.cast(labels, tf.int32), tf.shape(logits)[-1], dtype=logits.dtype)
    return -tf.reduce_sum(one_hot * tf.nn.log_softmax(logits), axis=-1)


@keras.saving.register_keras_serializable(package="anil_tf")
def mean_squared_error(targets: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    """Squared error, averaged over the outputs, for few-shot regression.

    Args:
        targets: Floats, `[..., M, N]`.
        outputs: Floats, `[..., M, N]`.

    Returns:
        The loss of each row, `[..., M]`.
    """
    return tf.reduce_mean(tf.square(outputs - targets), axis=-1)


LOSSES: dict[str, RowLoss] = {"cross_entropy": cross_entropy, "mse": mean_squared_error}


def get(loss: str | RowLoss) -> RowLoss:
    """The row loss of that name; a callable of `(labels, logits)` is returned as it is."""
    if callable(loss):
        return loss
    if loss not in LOSSES:
        raise ValueError(
            f"loss must be one of {sorted(LOSSES)} or a function of (labels, logits). "
            f"Received: loss={loss!r}"
        )
    return LOSSES[loss]


def counted_rows(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """1 for a row that takes part in adaptation, 0 for padding; the dtype is that of `logits`.

    Integer labels outside `0..N-1` are padding. Regression targets always count.

    Args:
        labels: Integers `[..., M]`, or float targets `[..., M, N]`.
        logits: Floats, `[..., M, N]`.

    Returns:
        `[..., M]`.
    """
    if labels.dtype.is_floating:
        return tf.ones_like(logits[..., 0])
    ways = tf.cast(tf.shape(logits)[-1], labels.dtype)
    return tf.cast((labels >= 0) & (labels < ways), logits.dtype)


def mean_over_rows(loss: RowLoss, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """The loss of a task: the mean over the rows that count (zero when none does).

    Args:
        loss: A row loss.
        labels: Integers `[..., M]`, or float targets `[..., M, N]`.
        logits: Floats, `[..., M, N]`.

    Returns:
        `[...]`, one loss a task.
    """
    counted = counted_rows(labels, logits)
    # Padding rows are selected away, not multiplied by zero: 0 * inf would be NaN.
    rows = tf.where(counted > 0, loss(labels, logits), 0.0)
    return tf.reduce_sum(rows, axis=-1) / tf.maximum(tf.reduce_sum(counted, axis=-1), 1.0)


class QueryLoss(keras.losses.Loss):
    """The outer loss: a row loss as a Keras loss, averaged over all queries of the batch.

    Keras's base class does the weighting, the reduction and the scaling for distribution.
    """

    def __init__(self, loss: RowLoss, **kwargs: Any) -> None:
        super().__init__(name="query_loss", **kwargs)
        self.row_loss = loss

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """The loss of each query, `[T, Q]`."""
        return self.row_loss(y_true, y_pred)
