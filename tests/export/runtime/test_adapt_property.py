"""The exported `adapt` against the reference, over the whole range that it promises."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anil_tf.export.runtime import open_bundle
from anil_tf.export.verify.cases import adapt_case, measure


@pytest.fixture(scope="module")
def runtimes(bundle):
    return [open_bundle(bundle, name) for name in ("litert", "onnx")]


@st.composite
def cases(draw):
    counts = draw(st.lists(st.integers(0, 40), min_size=2, max_size=20))
    padding = draw(st.integers(0 if any(counts) else 1, 20))
    rows, ways = sum(counts) + padding, len(counts)
    size, steps = draw(st.integers(1, 2000)), draw(st.integers(0, 200))
    scale = 10.0 ** draw(st.integers(-6, 3))
    share = draw(st.floats(0.001, 0.5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    features = rng.normal(0, scale, (rows, size)).astype(np.float32)
    others = rng.choice([-1, ways, 2**31 - 1, -(2**31)], padding)
    labels = rng.permutation(np.append(np.repeat(np.arange(ways), counts), others)).astype(np.int32)
    head = {
        "kernel": rng.normal(0, 1, (size, ways)).astype(np.float32),
        "bias": rng.normal(0, 1, ways).astype(np.float32),
    }
    # A share of the largest rate at which descent does not diverge. The curvature of cross-entropy
    # is at most half the largest eigenvalue of the weighted Gram matrix, at most its trace.
    rate = np.float32(share * 4 / (1 + np.square(features).sum(axis=1).max()))
    return adapt_case("adapt", features, labels, head, rate, steps)


def rounding(case):
    """What the last bit decides in the sums that the exported loop makes.

    Every step adds a residual of up to 1 for each row. With labels that cannot be learned these do
    not vanish, they cancel; how far is a matter of rounding.
    """
    inputs, (kernel, bias_and_losses, _) = case.inputs, case.expected
    moved = np.finfo(np.float32).eps * inputs["learning_rate"] * inputs["steps"]
    return moved * max(
        np.abs(inputs["features"]).mean() / np.abs(kernel["adapted_kernel"]).max(),
        1 / max(np.abs(value).max() for value in bias_and_losses.values()),
    )


@settings(max_examples=30)
@given(cases())
def test_adapt_agrees_with_the_reference(runtimes, case):
    for runtime in runtimes:
        difference = measure(runtime.run("adapt", **case.inputs), case.expected)
        assert difference <= max(case.bound, rounding(case)), runtime.name
