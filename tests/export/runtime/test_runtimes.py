"""Every runtime computes the six functions as the float64 reference does."""

import json
import subprocess
import sys

import numpy as np
import pytest

from anil_tf.acceptance import Temperature
from anil_tf.export.runtime import open_bundle, registry
from anil_tf.export.verify import check, reference, verify_bundle
from anil_tf.export.verify.episodes import ReferenceEpisodes
from tests.export.conftest import ACCEPTANCE

STATIC = ["litert_compiled", "litert_static", "litert_web_chromium"]
DYNAMIC = ["litert", "onnx", "onnx_web_chromium", "onnx_web_node", "saved_model"]
RUNTIMES = [*STATIC, *DYNAMIC]
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def open_or_skip(bundle, name):
    try:
        return open_bundle(bundle, name)
    except ImportError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=RUNTIMES)
def runtime(request, bundle, more_runtimes):
    return open_or_skip(bundle, request.param)


def support(runtime, rows=6, ways=3, seed=0):
    rng = np.random.default_rng(seed)
    size = runtime.manifest.feature_size
    features = rng.normal(0, 0.3, (rows, size)).astype(np.float32)
    labels = np.arange(rows) % ways
    kernel = rng.normal(0, 0.1, (size, ways)).astype(np.float32)
    return features, labels, kernel, rng.normal(0, 0.1, ways).astype(np.float32)


def assert_same_adaptation(actual, expected):
    np.testing.assert_allclose(actual.kernel, expected.kernel, **CLOSE)
    np.testing.assert_allclose(actual.bias, expected.bias, **CLOSE)
    np.testing.assert_allclose(actual.initial_loss, expected.initial_loss, **CLOSE)
    np.testing.assert_allclose(actual.final_loss, expected.final_loss, **CLOSE)
    assert actual.rows_used == expected.rows_used


def test_features_are_those_of_the_backbone_in_float64(runtime, bundle):
    episodes = ReferenceEpisodes.read(bundle)
    features = runtime.features(episodes.support_image[0])
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, episodes.support_features[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 5, 12])
def test_features_of_an_image_do_not_depend_on_the_batch(runtime, images, batch):
    together = runtime.features(images)
    np.testing.assert_allclose(runtime.features(images[:batch]), together[:batch], **CLOSE)


@pytest.mark.parametrize("ways", [2, 5, 9])
def test_a_shared_head_has_equal_columns_for_any_number_of_classes(runtime, ways):
    kernel, bias = runtime.initial_head(ways)
    assert kernel.shape == (runtime.manifest.feature_size, ways)
    np.testing.assert_array_equal(kernel, np.repeat(kernel[:, :1], ways, axis=1))
    np.testing.assert_array_equal(bias, np.repeat(bias[:1], ways))
    assert kernel.any() and bias.any()


def test_litert_resizes_no_scalar(bundle):
    """Where it does, the wheel of LiteRT 2.3 for ARM64 ends the process."""
    runtime = open_bundle(bundle, "litert")
    resized = []

    class Spy:
        def __init__(self, wrapper):
            self.wrapper = wrapper

        def __getattr__(self, name):
            return getattr(self.wrapper, name)

        def ResizeInputTensor(self, index, shape, *rest):
            resized.append(tuple(shape))
            self.wrapper.ResizeInputTensor(index, shape, *rest)

    for runner in runtime._functions.values():
        runner._interpreter_wrapper._wrapper = Spy(runner._interpreter_wrapper._wrapper)
    runtime.adapt(*support(runtime), 0.1, 1)
    size = runtime.manifest.feature_size
    assert sorted(resized) == [(3,), (6,), (6, size), (size, 3)]


@pytest.mark.parametrize("steps", [0, 1, 5, 50])
def test_adapt_follows_the_reference(runtime, steps):
    inputs = support(runtime)
    actual = runtime.adapt(*inputs, learning_rate=0.1, steps=steps)
    assert_same_adaptation(actual, reference.adapt(*inputs, 0.1, steps))


def test_no_steps_return_the_head_given(runtime):
    features, labels, kernel, bias = support(runtime)
    adapted = runtime.adapt(features, labels, kernel, bias, 0.1, 0)
    np.testing.assert_array_equal(adapted.kernel, kernel)
    np.testing.assert_array_equal(adapted.bias, bias)
    assert adapted.final_loss == adapted.initial_loss


def test_one_row_is_enough(runtime):
    inputs = support(runtime, rows=1)
    actual = runtime.adapt(*inputs, 0.1, 5)
    assert_same_adaptation(actual, reference.adapt(*inputs, 0.1, 5))


@pytest.mark.parametrize("label", [-1, 3, 1000, -(2**31)])
def test_a_row_with_a_label_out_of_range_is_left_out_whatever_it_holds(runtime, label):
    features, labels, kernel, bias = support(runtime)
    labels[2], features[2] = label, np.nan
    adapted = runtime.adapt(features, labels, kernel, bias, 0.1, 5)
    kept = np.delete(features, 2, axis=0), np.delete(labels, 2)
    assert_same_adaptation(adapted, reference.adapt(*kept, kernel, bias, 0.1, 5))
    assert adapted.rows_used == 5


def test_padding_alone_changes_nothing(runtime):
    features, labels, kernel, bias = support(runtime)
    adapted = runtime.adapt(features, np.full_like(labels, -1), kernel, bias, 0.1, 5)
    np.testing.assert_array_equal(adapted.kernel, kernel)
    np.testing.assert_array_equal(adapted.bias, bias)
    assert adapted[2:] == (0.0, 0.0, 0)


@pytest.mark.parametrize("name", DYNAMIC)
def test_adapt_takes_features_of_any_size(bundle, more_runtimes, name):
    rng = np.random.default_rng(1)
    inputs = (
        rng.normal(0, 0.3, (4, 11)).astype(np.float32),
        np.array([0, 1, 0, 1]),
        np.zeros((11, 2), np.float32),
        np.zeros(2, np.float32),
    )
    actual = open_or_skip(bundle, name).adapt(*inputs, 0.5, 5)
    assert_same_adaptation(actual, reference.adapt(*inputs, 0.5, 5))


@pytest.mark.parametrize("ways", [2, 20])
def test_few_and_many_classes_follow_the_reference(runtime, ways):
    inputs = support(runtime, rows=100, ways=ways)
    actual = runtime.adapt(*inputs, 0.1, 5)
    assert_same_adaptation(actual, reference.adapt(*inputs, 0.1, 5))


def test_a_row_that_counts_and_is_not_a_number_shows_in_the_loss(runtime):
    features, labels, kernel, bias = support(runtime)
    features[2] = np.nan
    adapted = runtime.adapt(features, labels, kernel, bias, 0.1, 5)
    assert np.isnan(adapted.initial_loss) and np.isnan(adapted.final_loss)
    assert adapted.rows_used == 6


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
def test_tiny_and_huge_features_are_answered(runtime, scale):
    features, labels, kernel, bias = support(runtime)
    adapted = runtime.adapt(scale * features, labels, kernel, bias, 0.1, 5)
    assert adapted.kernel.shape == kernel.shape and adapted.rows_used == 6
    # What adaptation does to a well-behaved task afterwards is not changed by it.
    assert_same_adaptation(
        runtime.adapt(features, labels, kernel, bias, 0.1, 5),
        reference.adapt(features, labels, kernel, bias, 0.1, 5),
    )


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64])
def test_labels_may_be_any_signed_integers(runtime, dtype):
    features, labels, kernel, bias = support(runtime)
    adapted = runtime.adapt(features, labels.astype(dtype), kernel, bias, 0.1, 5)
    assert adapted.rows_used == 6


def test_predict_follows_the_reference(runtime):
    features, _, kernel, bias = support(runtime)
    logits, probabilities = runtime.predict(features, kernel, bias)
    expected_logits, expected_probabilities = reference.predict(
        features, kernel, bias, temperature=Temperature(*ACCEPTANCE["temperature"])
    )
    np.testing.assert_allclose(logits, expected_logits, **CLOSE)
    np.testing.assert_allclose(probabilities, expected_probabilities, **CLOSE)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-6)


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_per_class_head_gives_its_first_columns(per_class_bundle, more_runtimes, name):
    runtime = open_or_skip(per_class_bundle, name)
    kernel, bias = runtime.initial_head(5)
    fewer_columns, fewer_biases = runtime.initial_head(3)
    np.testing.assert_array_equal(fewer_columns, kernel[:, :3])
    np.testing.assert_array_equal(fewer_biases, bias[:3])


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_per_class_head_refuses_more_classes_than_it_was_trained_with(
    per_class_bundle, more_runtimes, name
):
    with pytest.raises(ValueError, match="each of 5 classes. Received: ways=6"):
        open_or_skip(per_class_bundle, name).initial_head(6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"labels": np.zeros(5, int)}, "features and labels must agree in rows. Received: 6 and 5"),
        ({"labels": np.zeros(6)}, r"labels must be int32 \[rows\]. Received: float64 \[6\]"),
        ({"steps": -1}, "steps must not be negative"),
        ({"bias": np.zeros(4, np.float32)}, "kernel and bias must agree in ways"),
    ],
)
def test_adapt_says_what_is_wrong_with_its_inputs(runtime, wrong, message):
    features, labels, kernel, bias = support(runtime)
    inputs = {"features": features, "labels": labels, "kernel": kernel, "bias": bias}
    inputs |= {"learning_rate": 0.1, "steps": 1} | wrong
    with pytest.raises(ValueError, match=message):
        runtime.adapt(**inputs)


def test_images_are_not_cast_to_bytes(runtime, images):
    message = r"image must be uint8 \[batch, 28, 28, 1\]. Received: float64 \[12, 28, 28, 1\]"
    with pytest.raises(ValueError, match=message):
        runtime.features(images / 255)


def test_every_runtime_of_an_export_agrees_with_the_reference(bundle, more_runtimes):
    parity, skipped = verify_bundle(bundle)
    installed = {"saved_model", "onnx", "onnx_int8", "onnx_reference"}
    installed |= {"litert", "litert_static", "litert_compiled", "litert_int8"}
    assert {runtime.runtime for runtime in parity} >= installed and not installed & skipped.keys()
    assert all(runtime.ok for runtime in parity)
    loose = [(p.runtime, c.check) for p in parity for c in p.checks if c.bound > 1e-4]
    assert loose == [("onnx_int8", "features"), ("litert_int8", "features")]


def test_the_registry_knows_the_files_that_each_runtime_reads(bundle, micro_bundle, more_runtimes):
    for name, entry in registry.RUNTIMES.items():
        runtime = open_or_skip(micro_bundle if name == "tflm" else bundle, name)
        assert (runtime.name, runtime.files) == (name, entry.files)


def test_a_runtime_says_which_file_a_bundle_lacks(bundle, copy_of):
    from anil_tf.export.runtime.onnx import OnnxRuntime

    copy = copy_of(bundle)
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["files"]["onnx/adapt.onnx"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="without onnx: it has no onnx/adapt.onnx"):
        OnnxRuntime(copy)


def test_an_episode_is_adapted_to_and_predicted_from_its_images(runtime, images):
    labels = np.array([0, 1, 2, 0, 1, 2])
    episode = {"support_x": images[:6], "support_y": labels, "query_x": images[6:10]}
    before, after = runtime.adapt_and_predict(episode, ways=3, steps=5)
    support, query = runtime.features(images[:6]), runtime.features(images[6:10])
    kernel, bias = runtime.initial_head(3)
    adapted = reference.adapt(support, labels, kernel, bias, runtime.inner_lr, 5)
    np.testing.assert_allclose(before, query @ kernel + bias, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after, query @ adapted.kernel + adapted.bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 5, 12])
def test_similarity_is_the_cosine_to_the_mean_of_a_class(runtime, rows):
    features, labels, *_ = support(runtime, rows, ways=4)
    features[0] = features[0] * 1000  # only its direction counts
    query, *_ = support(runtime, 7, seed=1)
    actual = runtime.similarity(query, features, labels, 4)
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    queries = query / np.linalg.norm(query, axis=1, keepdims=True)
    for label in range(4):
        if not (labels == label).any():
            np.testing.assert_array_equal(actual[:, label], -1)
            continue
        mean = units[labels == label].mean(axis=0)
        np.testing.assert_allclose(actual[:, label], queries @ mean / np.linalg.norm(mean), **CLOSE)


def test_similarity_leaves_padding_rows_out_whatever_they_hold(runtime):
    features, labels, *_ = support(runtime)
    expected = runtime.similarity(features, features, labels, 3)
    padded = np.pad(features, [(0, 3), (0, 0)], constant_values=np.nan)
    actual = runtime.similarity(features, padded, [*labels, -1, 3, 99], 3)
    np.testing.assert_allclose(actual, expected, **CLOSE)


@pytest.mark.parametrize("scale", [1e-12, 1e-25, 1e25])
def test_only_the_direction_of_features_counts_for_similarity(runtime, scale):
    features, labels, *_ = support(runtime)
    expected = runtime.similarity(features, features, labels, 3)
    scaled = features * np.float32(scale)
    actual = runtime.similarity(scaled, scaled, labels, 3)
    np.testing.assert_allclose(actual, expected, **CLOSE)


def test_a_zero_vector_resembles_nothing(runtime):
    features, labels, *_ = support(runtime)
    features[0] = 0
    similarity = runtime.similarity(features, features, labels, 3)
    np.testing.assert_array_equal(similarity[0], 0)
    assert np.isfinite(similarity).all()


@pytest.fixture
def old_bundle(bundle, copy_of):
    """A bundle as versions without `similarity` wrote it, for ONNX, but for its temperature."""
    copy = copy_of(bundle)
    manifest = json.loads((copy / "manifest.json").read_text())
    for file in ("onnx/similarity.onnx", "onnx/similarity.ort"):
        (copy / file).unlink()
        del manifest["files"][file]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


def test_a_bundle_without_similarity_does_all_else(old_bundle, bundle, images):
    old, new = open_bundle(old_bundle), open_bundle(bundle)
    np.testing.assert_array_equal(old.features(images), new.features(images))
    parity = check(old, ReferenceEpisodes.read(old_bundle))
    assert parity.ok and not [found for found in parity.checks if "similarity" in found.check]
    rows = np.ones((2, new.manifest.feature_size))
    with pytest.raises(ValueError, match="without the function similarity.*Export the run again"):
        old.similarity(rows, rows, [0, 1], 2)


def test_an_unknown_runtime_is_refused(bundle):
    with pytest.raises(ValueError, match="runtime must be one of"):
        open_bundle(bundle, "abacus")


def test_running_onnx_imports_neither_tensorflow_nor_keras(bundle):
    program = (
        "import sys; from anil_tf.export.runtime import open_bundle; "
        f"runtime = open_bundle({str(bundle)!r}); runtime.initial_head(5); "
        "print({'tensorflow', 'keras', 'tf2onnx', 'onnx'} & set(sys.modules))"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert process.stdout.strip() == "set()", process.stderr
