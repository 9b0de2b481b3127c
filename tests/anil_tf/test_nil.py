"""NIL: the head without parameters, and training without an inner loop."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from anil_tf import NIL, backbones
from anil_tf.nil import Pretrained, cosine_scores


@pytest.mark.parametrize(
    ("labels", "share"),
    [
        ([1, 0, -1, 1, 0, 7], [1, 1]),  # the paper's sum
        ([1, 0, -1, 1, 1, 7], [4 / 2 / 1, 4 / 2 / 3]),  # M / (P n) for n = 1 and 3 rows
    ],
)
def test_scores_are_sums_of_cosines_in_which_every_class_counts_alike(labels, share):
    rng = np.random.default_rng(0)
    support, query = rng.normal(size=(6, 3)), rng.normal(size=(2, 3))
    labels = np.array(labels)
    expected = np.zeros((2, 2))
    for row, q in enumerate(query):
        for x, label in zip(support, labels, strict=True):
            if label in (0, 1):
                cosine = q @ x / np.linalg.norm(q) / np.linalg.norm(x)
                expected[row, label] += share[label] * cosine
    scores = cosine_scores(tf.constant(support), tf.constant(labels), tf.constant(query), 2)
    np.testing.assert_allclose(scores, expected, rtol=1e-12)


@pytest.mark.parametrize("norm", ["batch", "task"])
def test_a_classifier_of_many_classes_learns_without_a_support_set(norm):
    keras.utils.set_random_seed(0)
    model = Pretrained(backbones.conv4_strided((8, 8, 1), filters=4, blocks=1), ways=9, norm=norm)
    model.compile(keras.optimizers.Adam(0.03))
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(9, dtype=np.int32), (2, 1))
    images = np.tile(rng.integers(0, 256, (1, 9, 8, 8, 1)), (2, 1, 1, 1, 1)).astype(np.uint8)
    inputs = {
        "support_x": np.zeros((2, 0, 8, 8, 1), np.uint8),
        "support_y": np.zeros((2, 0), np.int32),
        "query_x": images,
    }
    losses = [float(model.train_on_batch(inputs, labels)) for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]


def test_nil_trains_the_body_alone():
    model = NIL(backbones.conv4_strided((8, 8, 1), filters=4, blocks=1), ways=3)
    assert {variable.path.split("/")[0] for variable in model.trainable_variables} == {
        "block1_conv"
    }
