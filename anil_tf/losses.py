"""Losses of one row, as the inner and the outer loop use them."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import keras
import tensorflow as tf

RowLoss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
Loss: TypeAlias = str | RowLoss | keras.losses.Loss
Targets = Literal["class", "float"]


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

_KERAS_REGRESSIONS = (
    keras.losses.MeanSquaredError,
    keras.losses.MeanAbsoluteError,
    keras.losses.MeanAbsolutePercentageError,
    keras.losses.MeanSquaredLogarithmicError,
    keras.losses.Huber,
    keras.losses.LogCosh,
)
_REGRESSIONS = (
    mean_squared_error,
    keras.losses.mean_squared_error,
    keras.losses.mean_absolute_error,
    keras.losses.mean_absolute_percentage_error,
    keras.losses.mean_squared_logarithmic_error,
    keras.losses.huber,
    keras.losses.log_cosh,
)


def is_regression(loss: Loss, targets: Targets | None = None) -> bool:
    """Whether a loss compares floats with floats, and not integer classes with logits.

    The dtype of the data cannot tell: some distribution strategies pass integers as float32. So the
    loss decides where it is known, and `targets` says it for a loss of the user's own.

    Args:
        loss: Name, function or Keras loss.
        targets: `"class"`, `"float"`, or None: `"float"` for `"mse"` and for the regression losses
            of Keras, `"class"` for all others.

    Raises:
        ValueError: `targets` is neither, or contradicts a loss that has a name.
    """
    if targets not in (None, *get_args(Targets)):
        raise ValueError(
            f"targets must be one of {get_args(Targets)} or None. Received: {targets!r}"
        )
    known = loss == "mse" or loss in _REGRESSIONS or isinstance(loss, _KERAS_REGRESSIONS)
    if targets is None:
        return known
    regression = targets == "float"
    if (isinstance(loss, str) or loss in LOSSES.values()) and regression != known:
        raise ValueError(
            f"loss={loss!r} takes targets={'float' if known else 'class'!r}. "
            f"Received: targets={targets!r}"
        )
    return regression


def get(loss: Loss, regression: bool = False) -> RowLoss:
    """The row loss of a name, a function or a Keras loss.

    Args:
        loss: `"cross_entropy"`, `"mse"`, a function of `(labels, logits)` or a Keras loss. A Keras
            loss is used without its reduction and weighting.
        regression: Whether a loss of the user's own takes float targets; see `is_regression`.

    Raises:
        ValueError: No loss has that name, or a Keras cross-entropy expects probabilities.
    """
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise ValueError(
                f"loss must be one of {sorted(LOSSES)}, a function of (labels, logits) or a Keras "
                f"loss. Received: loss={loss!r}"
            )
        return LOSSES[loss]
    if loss in LOSSES.values():
        return loss
    check_logits(loss)
    function = loss.call if isinstance(loss, keras.losses.Loss) else loss

    def rows(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        if regression:
            return _one_per_row(function(tf.cast(labels, logits.dtype), logits), logits)
        labels = tf.cast(labels, tf.int32)
        valid = (labels >= 0) & (labels < tf.shape(logits)[-1])
        # Padding rows get a class that exists: the loss may fail on any other, or give NaN.
        result = _one_per_row(function(tf.where(valid, labels, 0), logits), logits)
        return tf.where(valid, result, 0.0)

    return rows


def check_logits(loss: Any) -> None:
    """Rejects a Keras cross-entropy that would take the model's logits for probabilities.

    Raises:
        ValueError: It has `from_logits=False`.
    """
    loss = keras.losses.get(loss) if isinstance(loss, str) else loss
    name = getattr(loss, "__name__", type(loss).__name__)
    of_keras = (getattr(loss, "__module__", "") or "").startswith("keras.")
    settings = loss.get_config() if of_keras and isinstance(loss, keras.losses.Loss) else {}
    if settings.get("from_logits") is False or (of_keras and name.endswith("crossentropy")):
        raise ValueError(
            "The model's outputs are logits: leave the loss out, or use "
            f"SparseCategoricalCrossentropy(from_logits=True). Received: {name}, which takes "
            "probabilities"
        )


def check_compiled(loss: Any, regression: bool) -> None:
    """Rejects a loss given to `compile` that does not fit the model's targets.

    Args:
        loss: What `compile` got: a name, a function, a Keras loss, or None.
        regression: Whether the model's targets are floats.

    Raises:
        ValueError: The loss is that of a regression and the model classifies, or it takes
            probabilities.
    """
    if loss is None or isinstance(loss, dict | list | tuple):
        return
    found = keras.losses.get(loss) if isinstance(loss, str) else loss
    check_logits(found)
    if is_regression(found) and not regression:
        raise ValueError(
            f"compile(loss={loss!r}) compares floats, and this model classifies: leave the loss "
            "out of compile, or make the model with loss='mse' for a regression"
        )


def _one_per_row(rows: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    if rows.shape.rank != logits.shape.rank - 1:
        raise ValueError(
            "loss must return one value per row: [..., M] for logits [..., M, N]. Received: "
            f"{rows.shape} for logits {logits.shape}"
        )
    return rows


def row_weights(
    labels: tf.Tensor, ways: int | tf.Tensor, dtype: tf.DType = tf.float32
) -> tf.Tensor:
    """Weight of each support row in the loss of its task; the weights of a task sum to 1.

    Every class counts equally, however many rows it has: if P classes have rows, a row of a class
    with n rows weighs 1 / (P n). With equally many rows for each class that is 1 / M. Integer
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
    return weigh_rows(tf.one_hot(tf.cast(labels, tf.int32), ways, dtype=dtype))[..., 0]


def weigh_rows(one_hot: tf.Tensor) -> tf.Tensor:
    """Weights `[..., M, 1]` of one-hot labels `[..., M, N]`, as `row_weights` defines them.

    Operations that every exported format has.
    """
    rows_of_class = tf.reduce_sum(one_hot, axis=-2, keepdims=True)
    classes = tf.reduce_sum(tf.minimum(rows_of_class, 1.0), axis=-1, keepdims=True)
    rows_alike = tf.reduce_sum(one_hot * rows_of_class, axis=-1, keepdims=True)  # 0 for padding
    return tf.minimum(rows_alike, 1.0) / tf.maximum(classes * rows_alike, 1.0)


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
    # Padding rows are masked, not multiplied by zero: 0 * inf would be NaN.
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
