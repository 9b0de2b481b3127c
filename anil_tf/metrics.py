"""Accuracy over episodes, with its 95% confidence interval; and the area under a curve."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from anil_tf.losses import mean_squared_error
from anil_tf.support.keras_private import better

_NORMAL_95 = 1.96


def mean_and_ci95(values: ArrayLike) -> tuple[float, float]:
    """Mean and half-width of its 95% confidence interval, by the normal approximation.

    Args:
        values: One value per episode, at least two.

    Returns:
        `(mean, 1.96 * standard deviation / sqrt(episodes))`.

    Raises:
        ValueError: Fewer than two values: an interval needs a spread.
    """
    array = np.asarray(values, np.float64)
    if array.size < 2:
        raise ValueError(f"A confidence interval needs at least 2 episodes. Received: {array.size}")
    return float(array.mean()), float(_NORMAL_95 * array.std(ddof=1) / np.sqrt(array.size))


def auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    """The probability that a known image scores above an unknown one; ties count half.

    The area under the curve of true against false positives (Hanley & McNeil 1982).

    Args:
        known: Scores `[n]`.
        unknown: Scores `[m]`.
    """
    ordered = np.sort(unknown)
    below = np.searchsorted(ordered, known, "left")
    below_or_equal = np.searchsorted(ordered, known, "right")
    return float((below + below_or_equal).mean() / (2 * len(unknown)))


class _OverEpisodes(keras.metrics.Metric):
    """Collects one value per episode: their number, their sum and their sum of squares."""

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self._count, self._sum, self._squares = (
            self.add_variable((), "zeros", name=part) for part in ("count", "sum", "squares")
        )

    def rows(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """The value of each query, `[T, Q]`."""
        raise NotImplementedError

    def counted(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """Whether each query counts, `[T, Q]` or a scalar for all."""
        del y_true, y_pred
        return tf.constant(True)

    def update_state(
        self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: tf.Tensor | None = None
    ) -> None:
        """Adds T episodes of Q queries; weights `[T]` or `[T, Q]` weigh queries within a task.

        An episode whose weights are all 0 does not count; all others count equally.
        """
        y_pred = tf.convert_to_tensor(y_pred)
        rows = tf.cast(self.rows(y_true, y_pred), self.dtype)
        weights = tf.cast(self.counted(y_true, y_pred), self.dtype) * tf.ones_like(rows)
        if sample_weight is not None:
            sample_weight = tf.cast(sample_weight, self.dtype)
            if sample_weight.shape.rank == 1:
                sample_weight = sample_weight[:, tf.newaxis]
            weights *= sample_weight
        weight = tf.reduce_sum(weights, axis=1)
        episodes = tf.math.divide_no_nan(tf.reduce_sum(weights * rows, axis=1), weight)
        counted = tf.cast(weight > 0, self.dtype)
        self._count.assign_add(tf.reduce_sum(counted))
        self._sum.assign_add(tf.reduce_sum(counted * episodes))
        self._squares.assign_add(tf.reduce_sum(counted * tf.square(episodes)))

    def result(self) -> tf.Tensor:
        """The mean over episodes."""
        return tf.math.divide_no_nan(tf.convert_to_tensor(self._sum), self._count)


@keras.saving.register_keras_serializable(package="anil_tf")
@better("up")
class EpisodeAccuracy(_OverEpisodes):
    """Share of queries that are classified correctly, averaged over episodes.

    `y_true` are integers `[T, Q]`, `y_pred` logits `[T, Q, N]`. Queries with a label outside
    `0..N-1` are padding and do not count.
    """

    def __init__(self, name: str = "accuracy", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def rows(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """Whether the largest logit is that of the label."""
        predicted = tf.argmax(y_pred, axis=-1, output_type=tf.int32)
        return predicted == tf.cast(y_true, tf.int32)

    def counted(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """Whether each query's label is a class."""
        labels = tf.cast(y_true, tf.int32)
        return (labels >= 0) & (labels < tf.shape(y_pred)[-1])


@keras.saving.register_keras_serializable(package="anil_tf")
@better("down")
class EpisodeAccuracyCI95(EpisodeAccuracy):
    """Half-width of the 95% confidence interval of `EpisodeAccuracy`, over episodes."""

    def __init__(self, name: str = "accuracy_ci95", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def result(self) -> tf.Tensor:
        """1.96 standard errors."""
        count = tf.convert_to_tensor(self._count)
        mean = tf.math.divide_no_nan(tf.convert_to_tensor(self._sum), count)
        spread = tf.maximum(self._squares - count * tf.square(mean), 0.0)
        variance = tf.math.divide_no_nan(spread, count - 1.0)
        return _NORMAL_95 * tf.sqrt(tf.math.divide_no_nan(variance, count))


@keras.saving.register_keras_serializable(package="anil_tf")
@better("down")
class EpisodeMeanSquaredError(_OverEpisodes):
    """Squared error of regression episodes; `y_true` and `y_pred` are floats `[T, Q, N]`."""

    def __init__(self, name: str = "mse", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def rows(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """Squared error of each query, averaged over the outputs."""
        return mean_squared_error(tf.cast(y_true, y_pred.dtype), y_pred)
