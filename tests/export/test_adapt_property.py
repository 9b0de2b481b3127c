"""The exported `adapt` against the reference, over the whole range that it promises."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anil_tf.export import reference
from anil_tf.export.runtime import open_bundle

# Relative to the head's largest value. Rates are such that gradient descent contracts: beyond that
# it amplifies rounding without limit, in any implementation.
BOUND = 1e-5


@pytest.fixture(scope="module")
def runtime(bundle):
    return open_bundle(bundle, "onnx")


@st.composite
def episodes(draw):
    rows, ways = draw(st.integers(1, 12)), draw(st.integers(2, 7))
    size, steps = draw(st.integers(1, 40)), draw(st.integers(0, 60))
    labels = draw(st.lists(st.integers(-2, ways + 1), min_size=rows, max_size=rows))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    features = rng.normal(0, 1 / np.sqrt(size), (rows, size)).astype(np.float32)
    kernel = rng.normal(0, 1, (size, ways)).astype(np.float32)
    bias = rng.normal(0, 1, ways).astype(np.float32)
    rate = draw(st.floats(2**-10, 0.5, width=32))
    return features, np.array(labels, np.int32), kernel, bias, rate, steps


@settings(max_examples=60)
@given(episodes())
def test_adapt_agrees_with_the_reference(runtime, episode):
    actual, expected = runtime.adapt(*episode), reference.adapt(*episode)

    scale = max(np.abs(expected.kernel).max(), np.abs(expected.bias).max())
    assert np.abs(actual.kernel - expected.kernel).max() <= BOUND * scale
    assert np.abs(actual.bias - expected.bias).max() <= BOUND * scale
    assert abs(actual.initial_loss - expected.initial_loss) <= BOUND * max(expected.initial_loss, 1)
    assert abs(actual.final_loss - expected.final_loss) <= BOUND * max(expected.initial_loss, 1)
    assert actual.rows_used == expected.rows_used
