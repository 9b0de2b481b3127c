"""NIL, no inner loop: a task is answered by the cosines between its queries and its support set."""

from typing import Any

import keras
import tensorflow as tf

from anil_tf.heads import map_tasks
from anil_tf.losses import row_weights
from anil_tf.model import ANIL
from anil_tf.outer_loop import Answers


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
    weights = row_weights(labels, ways, cosines.dtype)
    weights *= tf.reduce_sum(tf.sign(weights), axis=-1, keepdims=True)
    one_hot = tf.one_hot(labels, ways, dtype=cosines.dtype)
    return tf.matmul(cosines, weights[..., tf.newaxis] * one_hot)


def answer_by_cosines(
    model: ANIL, inputs: dict[str, tf.Tensor], ways: int | None = None, training: bool = False
) -> tf.Tensor:
    """Tests any model without its head and inner loop: scores `[T, Q, ways]` of the queries."""
    support, query = model.embed(inputs["support_x"], inputs["query_x"], training)
    labels = tf.cast(inputs["support_y"], tf.int32)
    return cosine_scores(support, labels, query, model.ways if ways is None else ways)


@keras.saving.register_keras_serializable(package="anil_tf")
class NIL(ANIL):
    """Trained and tested without an inner loop: the queries' loss is that of `cosine_scores`.

    The "NIL training" of Raghu et al. 2020, section 5.3. Arguments as of `ANIL`; those of the
    inner loop and of the head have no effect.
    """

    adapts_head = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.head.trainable = False

    def answer(
        self,
        inputs: dict[str, tf.Tensor],
        training: bool = False,
        ways: int | None = None,
        steps: int | None = None,
    ) -> Answers:
        """The scores `[T, Q, ways]`, twice: nothing adapts."""
        scores = answer_by_cosines(self, inputs, ways, training)
        return scores, scores


@keras.saving.register_keras_serializable(package="anil_tf")
class Pretrained(ANIL):
    """Trained as an ordinary classifier of the queries, tested without an inner loop.

    With episodes whose labels are a task's own this is the multitask training of Raghu et al. 2020,
    section 5.3; with the classes of the whole training set as labels, its multiclass training.
    Arguments as of `ANIL`; `ways` are the labels there are in training. Supports are not looked at
    in training and may be empty.
    """

    adapts_head = False

    def answer(
        self,
        inputs: dict[str, tf.Tensor],
        training: bool = False,
        ways: int | None = None,
        steps: int | None = None,
    ) -> Answers:
        """Logits of the head in training, cosine scores otherwise."""
        if not training:
            scores = answer_by_cosines(self, inputs, ways)
            return scores, scores
        query = inputs["query_x"]
        if self.norm == "batch":
            features = self.features(tf.reshape(query, [-1, *query.shape[2:]]), training)
            features = tf.reshape(features, [-1, query.shape[1], features.shape[-1]])
        else:
            features = map_tasks(lambda images: self.run_backbone(images)[0], query)
        return None, self.head(features)
