"""Many tasks at once give each task the head that the reference gives it alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anil_tf.export.bulk.gram import adapt_tasks
from anil_tf.export.verify import reference

BOUND = 1e-5


def assert_agrees(adapted, features, labels, kernel, bias, rate, steps, balanced=True):
    for task in range(len(features)):
        expected = reference.adapt(
            features[task], labels[task], kernel, bias, rate, steps, balanced=balanced
        )
        scale = max(np.abs(expected.kernel).max(), np.abs(expected.bias).max())
        assert np.abs(adapted.kernel[task] - expected.kernel).max() <= BOUND * scale
        assert np.abs(adapted.bias[task] - expected.bias).max() <= BOUND * scale
        largest = max(expected.initial_loss, 1)
        assert abs(adapted.initial_loss[task] - expected.initial_loss) <= BOUND * largest
        assert abs(adapted.final_loss[task] - expected.final_loss) <= BOUND * largest
        assert adapted.rows_used[task] == expected.rows_used
        assert adapted.classes_used[task] == len({*labels[task]} & {*range(bias.size)})


@st.composite
def batches(draw):
    tasks, rows = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    ways, size = draw(st.integers(2, 6)), draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    features = rng.normal(0, 1 / np.sqrt(size), (tasks, rows, size)).astype(np.float32)
    labels = rng.integers(-1, ways, (tasks, rows)).astype(np.int32)
    features[labels < 0] = 0
    kernel = rng.normal(0, 1, (size, ways)).astype(np.float32)
    bias = rng.normal(0, 1, ways).astype(np.float32)
    rate, steps = draw(st.floats(2**-10, 0.5, width=32)), draw(st.integers(0, 40))
    return features, labels, kernel, bias, rate, steps


@settings(max_examples=80)
@given(batches(), st.booleans())
def test_every_task_agrees_with_the_reference(batch, balanced):
    assert_agrees(adapt_tasks(*batch, balanced), *batch, balanced)


@pytest.mark.parametrize("scale", [100.0, -100.0])
def test_logits_beyond_the_range_of_exp(scale):
    rng = np.random.default_rng(0)
    features = rng.normal(0, 0.2, (3, 6, 8)).astype(np.float32)
    labels = np.tile([0, 1, 2], (3, 2)).astype(np.int32)
    kernel = rng.normal(0, 0.1, (8, 3)).astype(np.float32)
    bias = np.array([scale, scale + 1, scale - 1], np.float32)
    batch = features, labels, kernel, bias, 0.1, 5
    assert_agrees(adapt_tasks(*batch), *batch)


def test_a_task_that_diverges_leaves_the_others_alone():
    rng = np.random.default_rng(0)
    features = rng.normal(0, 0.2, (2, 6, 8)).astype(np.float32)
    labels = np.tile([0, 1, 2], (2, 2)).astype(np.int32)
    kernel, bias = np.zeros((8, 3), np.float32), np.array([90, 91, 92], np.float32)
    spoiled = features.copy()
    spoiled[0] = 1e30
    with np.errstate(all="ignore"):
        adapted = adapt_tasks(spoiled, labels, kernel, bias, 0.1, 5)
    assert not np.isfinite(adapted.kernel[0]).all()
    expected = reference.adapt(features[1], labels[1], kernel, bias, 0.1, 5)
    np.testing.assert_allclose(adapted.kernel[1], expected.kernel, rtol=1e-4, atol=1e-6)
