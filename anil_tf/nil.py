"""NIL, no inner loop: queries are classified by their cosines to the task's support set."""

from typing import Any

import keras
import tensorflow as tf

from anil_tf.embedding import Norm
from anil_tf.episodic import EpisodicModel
from anil_tf.heads import LinearHead
from anil_tf.losses import row_weights
from anil_tf.outer_loop import Predictions


def cosine_scores(support: tf.Tensor, labels: tf.Tensor, query: tf.Tensor, ways: int) -> tf.Tensor:
    """Scores of a head without parameters (Raghu et al. 2020, section 5).

    The score of a class is the sum over the support set of the cosine to each of its features x,
    weighted by their one-hot labels:  s_n = sum_m v_m [y_m = n] cos(q, x_m). The paper has v_m = 1.
    Here v_m = M / (P n) for a row of a class with n of the M rows, P classes having rows: the same
    where classes have equally many rows, and no advantage for a class that has more.

    Args:
        support: Features `[..., M, D]`.
        labels: Integers `[..., M]`; those outside `0..ways-1` count for no class.
        query: Features `[..., Q, D]`.
        ways: Classes, N.

    Returns:
        `[..., Q, N]`.
    """
    unit_support, unit_query = (tf.math.l2_normalize(rows, axis=-1) for rows in (support, query))
    cosines = tf.matmul(unit_query, unit_support, transpose_b=True)
    labels = tf.convert_to_tensor(labels)
    weights = row_weights(labels, ways, cosines.dtype)
    weights *= tf.reduce_sum(tf.sign(weights), axis=-1, keepdims=True)
    one_hot = tf.one_hot(labels, ways, dtype=cosines.dtype)
    return tf.matmul(cosines, weights[..., tf.newaxis] * one_hot)


def predict_by_cosines(
    model: EpisodicModel,
    inputs: dict[str, tf.Tensor],
    ways: int | None = None,
    training: bool = False,
) -> tf.Tensor:
    """Scores of the queries by any model's backbone, without its head and inner loop.

    Args:
        model: Model whose features to use.
        inputs: `support_x`, `support_y` and `query_x` of T tasks.
        ways: Number of classes of these tasks; by default that of training.
        training: Whether the outer loop learns from the scores.

    Returns:
        Scores `[T, Q, ways]`.
    """
    support, query = model.embed(inputs["support_x"], inputs["query_x"], training)
    labels = tf.cast(inputs["support_y"], tf.int32)
    return cosine_scores(support, labels, query, model.ways if ways is None else ways)


class _Classifier(EpisodicModel):
    """What `NIL` and `Pretrained` share: a classification without an inner loop."""

    def __init__(
        self, backbone: keras.Model, *, ways: int = 5, norm: Norm = "batch", **kwargs: Any
    ) -> None:
        super().__init__(backbone, ways=ways, norm=norm, **kwargs)
        self._build_early()
        if self.is_regression:
            raise ValueError(f"{type(self).__name__} classifies: a regression has no classes")


@keras.saving.register_keras_serializable(package="anil_tf")
class NIL(_Classifier):
    """A backbone trained and tested without an inner loop, by the loss of `cosine_scores`.

    The "NIL training" of Raghu et al. 2020, section 5.3. It has no head.

    Args:
        backbone: A Keras model from inputs `[B, ...]` to features `[B, D]`.
        ways: Number of classes of a task.
        norm: Images whose statistics batch normalisation uses, as in `ANIL`.
        **kwargs: `loss`, as in `ANIL`, and arguments of every Keras model.

    Raises:
        ValueError: An argument is out of its range, or the loss is that of a regression.
    """

    def adapt_and_predict(
        self,
        inputs: dict[str, tf.Tensor],
        training: bool = False,
        ways: int | None = None,
        steps: int | None = None,
    ) -> Predictions:
        """The scores `[T, Q, ways]`, the same before and after: nothing adapts."""
        scores = predict_by_cosines(self, inputs, ways, training)
        return Predictions(scores, scores)


@keras.saving.register_keras_serializable(package="anil_tf")
class Pretrained(_Classifier):
    """A model trained as a classifier of the queries and tested without an inner loop.

    With episodes whose labels are numbered within each task this is the multitask training of
    Raghu et al. 2020, section 5.3; with the classes of the whole training set as labels, it is its
    multiclass training. Training ignores the support sets, which may be empty.

    Args:
        backbone: A Keras model from inputs `[B, ...]` to features `[B, D]`.
        ways: Number of labels in training.
        norm: Images whose statistics batch normalisation uses, as in `ANIL`.
        **kwargs: `loss`, as in `ANIL`, and arguments of every Keras model.

    Raises:
        ValueError: An argument is out of its range, or the loss is that of a regression.
    """

    def __init__(
        self, backbone: keras.Model, *, ways: int = 5, norm: Norm = "batch", **kwargs: Any
    ) -> None:
        super().__init__(backbone, ways=ways, norm=norm, head=LinearHead(ways), **kwargs)

    def adapt_and_predict(
        self,
        inputs: dict[str, tf.Tensor],
        training: bool = False,
        ways: int | None = None,
        steps: int | None = None,
    ) -> Predictions:
        """Logits of the head in training, cosine scores otherwise."""
        if training:
            features = self.embedding.embed_sets(inputs["query_x"], training)
            return Predictions(None, self.head(features))
        scores = predict_by_cosines(self, inputs, ways)
        return Predictions(scores, scores)
