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


def row_weights(
    labels: tf.Tensor, ways: int | tf.Tensor, dtype: tf.DType = tf.float32
) -> tf.Tensor:
    """Weight of each support row in the loss of its task; the weights of a task sum to 1.

    Every class counts alike, however many rows it has: of P classes that have rows, a row of a
    class with n rows weighs 1 / (P n). With equally many rows for each class that is 1 / M. Integer
    labels outside `0..N-1` are padding and weigh nothing. Regression targets weigh 1 / M.

    Args:
        labels: Integers `[..., M]`, or float targets `[..., M, N]`.
        ways: Number of classes, N.
        dtype: Dtype of the weights.

    Returns:
        `[..., M]`.
    """
    if labels.dtype.is_floating:
        ones = tf.ones_like(labels[..., 0], dtype)
        return ones / tf.reduce_sum(ones, axis=-1, keepdims=True)
    one_hot = tf.one_hot(tf.cast(labels, tf.int32), ways, dtype=dtype)
    rows_of_class = tf.reduce_sum(one_hot, axis=-2, keepdims=True)
    classes = tf.reduce_sum(tf.minimum(rows_of_class, 1.0), axis=-1)
    rows_alike = tf.reduce_sum(one_hot * rows_of_class, axis=-1)  # 0 for padding
    return tf.math.divide_no_nan(tf.minimum(rows_alike, 1.0), classes * rows_alike)


def task_loss(loss: RowLoss, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Loss of a task: the mean over its classes of the mean over the rows of each class.

    Zero where every row is padding.

    Args:
        loss: A row loss.
        labels: Integers `[..., M]`, or float targets `[..., M, N]`.
        logits: Floats, `[..., M, N]`.

    Returns:
        `[...]`, one loss per task.
    """
    weights = row_weights(labels, tf.shape(logits)[-1], logits.dtype)
    # Padding rows are selected away, not multiplied by zero: 0 * inf would be NaN.
    return tf.reduce_sum(tf.where(weights > 0, weights * loss(labels, logits), 0.0), axis=-1)


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
