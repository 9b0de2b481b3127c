"""A bundle on TensorFlow Lite Micro: it computes the functions, learning included."""

import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from anil_tf import ClassImages, EpisodeSampler
from anil_tf.cli import main
from anil_tf.export import layout
from anil_tf.export.manifest import read_manifest
from anil_tf.export.runtime import open_bundle
from anil_tf.export.signatures import NO_CLASS_BIAS
from anil_tf.export.verify import check, reference, verify_bundle
from anil_tf.export.verify.episodes import ReferenceEpisodes
from anil_tf.training.evaluate import evaluate_episodes

runtimes = pytest.importorskip("anil_tf.export.runtime.tflm")
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(scope="module")
def runtime(micro_bundle):
    return open_bundle(micro_bundle, "tflm")


@pytest.fixture
def load(micro_bundle):
    """A function as a program on a microcontroller calls it: it pads by itself."""
    return lambda name: runtimes.MicroFunction(
        name, (micro_bundle / layout.TFLM[name]).read_bytes()
    )


def support(rows=7, ways=3, seed=0):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(0, 0.3, (rows, 64)).astype(np.float32),
        (np.arange(rows) % ways).astype(np.int32),
        rng.normal(0, 0.1, (64, ways)).astype(np.float32),
        rng.normal(0, 0.1, ways).astype(np.float32),
    )


def assert_same_adaptation(actual, expected):
    for name in ("kernel", "bias", "initial_loss", "final_loss"):
        np.testing.assert_allclose(
            getattr(actual, name), getattr(expected, name), err_msg=name, **CLOSE
        )
    assert actual.rows_used == expected.rows_used


def test_every_check_of_verify_passes(micro_bundle):
    parities, _ = verify_bundle(micro_bundle)
    (parity,) = (parity for parity in parities if parity.runtime == "tflm")
    assert parity.ok
    names = {check.check.split(",")[0] for check in parity.checks}
    assert names == {"initial_head", "features", "adapt", "predict", "similarity"}
    assert "adapt, padding rows" in {check.check for check in parity.checks}
    assert parity.accuracy is not None and len(parity.milliseconds) == 4


def test_the_manifest_says_what_a_chip_must_have(micro_bundle, runtime):
    manifest = read_manifest(micro_bundle)
    (parity,) = (parity for parity in manifest.parity if parity.runtime == "tflm")
    assert parity.arena_bytes == runtime.arena_bytes
    assert parity.arena_bytes.keys() == layout.TFLM.keys()
    assert parity.bytes == sum(manifest.size(file) for file in layout.TFLM.values())
    card = (micro_bundle / layout.MODEL_CARD).read_text(encoding="utf-8")
    size = manifest.size(layout.TFLM["adapt"])
    assert f"| adapt | {size:,} | {runtime.arena_bytes['adapt']:,} |" in card


@pytest.mark.parametrize("steps", [0, 1, 5, 50])
@pytest.mark.parametrize("ways", [2, 3, 4])
def test_it_learns_as_the_reference_does(runtime, steps, ways):
    inputs = support(ways=ways)
    actual = runtime.adapt(*inputs, learning_rate=0.1, steps=steps)
    assert_same_adaptation(actual, reference.adapt(*inputs, 0.1, steps))


def test_rows_without_a_class_are_left_out(runtime):
    features, labels, kernel, bias = support()
    unused = labels.copy()
    unused[[1, 4]] = [-1, 3]
    odd = features.copy()
    odd[1] = np.nan
    actual = runtime.adapt(odd, unused, kernel, bias, 0.1, 5)
    assert actual.rows_used == 5
    assert_same_adaptation(actual, reference.adapt(features, unused, kernel, bias, 0.1, 5))


def test_a_label_of_an_unused_column_is_padding_in_the_file_itself(load):
    head = load("initial_head")(ways=np.int32(3))
    assert head["bias"][3] == np.float32(NO_CLASS_BIAS) and not head["kernel"][:, 3].any()
    features, labels, *_ = support(rows=12)
    labels[[2, 5]] = [3, 4]
    adapted = load("adapt")(
        features=features,
        labels=labels,
        learning_rate=np.float32(0.1),
        steps=np.int32(20),
        **head,
    )
    expected = reference.adapt(features, labels, head["kernel"][:, :3], head["bias"][:3], 0.1, 20)
    np.testing.assert_allclose(adapted["adapted_kernel"][:, :3], expected.kernel, atol=1e-6)
    assert adapted["rows_used"] == expected.rows_used == 10
    assert not adapted["adapted_kernel"][:, 3].any()
    predicted = load("predict")(
        features=features[:1], kernel=adapted["adapted_kernel"], bias=adapted["adapted_bias"]
    )
    assert predicted["probabilities"][0, 3] == 0
    np.testing.assert_allclose(predicted["probabilities"].sum(), 1, rtol=1e-6)


def test_similarity_follows_the_reference(runtime):
    features, labels, *_ = support(rows=8)
    features[5] = 0  # a black image
    labels[labels == 1] = -1  # a class without a row
    query = np.concatenate([features[:2], 1e-4 * features[2:3], features[5:6]])
    actual = runtime.similarity(query, features, labels, 3)
    expected = reference.similarity(query, features, labels, 3)
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    assert (actual[:, 1] == -1).all()


def test_features_take_the_bytes_of_the_pixels_minus_128(load, runtime, images):
    features = load("features")
    as_int8 = (images[:1].astype(np.int16) - 128).astype(np.int8)
    as_xor = (images[:1] ^ 0x80).view(np.int8)
    np.testing.assert_array_equal(as_int8, as_xor)
    direct = features(image=as_int8)["features"]
    np.testing.assert_array_equal(direct, runtime.features(images[:1]))


def test_features_are_close_to_those_of_onnx(runtime, micro_bundle, images):
    exact = open_bundle(micro_bundle, "onnx").features(images)
    differences = np.linalg.norm(runtime.features(images) - exact, axis=1)
    assert 0 < differences.max() < 0.05 * np.linalg.norm(exact, axis=1).min()


@pytest.mark.parametrize(
    ("rows", "ways", "message"),
    [
        (13, 3, "tflm has room for 12 rows. Received: 13. Export with larger --ways or --rows"),
        (6, 5, "tflm has room for 4 ways. Received: 5"),
    ],
)
def test_what_the_files_have_no_space_for_is_rejected(runtime, rows, ways, message):
    with pytest.raises(ValueError, match=message):
        runtime.adapt(*support(rows, ways), 0.1, 1)


def test_episodes_of_more_classes_are_cut_to_the_space_there_is(micro_bundle, runtime):
    episodes = ReferenceEpisodes.read(micro_bundle)
    assert episodes.ways == 5 and runtime.room == (4, 12)
    fitting = episodes.fit(4, 12)
    assert fitting.ways == 4 and set(fitting.query_labels.ravel()) == {0, 1, 2, 3}
    assert fitting.support_image.shape[:2] == fitting.support_labels.shape
    assert fitting.support_features.shape[:2] == fitting.support_labels.shape
    assert episodes.fit(5, 15) is episodes
    assert episodes.fit(5, 4).ways == 2


def test_a_head_of_another_rate_is_noticed(micro_bundle, runtime, monkeypatch):
    run = runtime.run

    def with_a_higher_rate(signature, **inputs):
        if signature == "adapt":
            inputs["learning_rate"] *= 1.01
        return run(signature, **inputs)

    monkeypatch.setattr(runtime, "run", with_a_higher_rate)
    parity = check(runtime, ReferenceEpisodes.read(micro_bundle))
    assert {c.check for c in parity.checks if not c.ok} >= {"adapt, 5 steps", "adapt, 50 steps"}


def test_without_its_package_it_says_what_to_install(micro_bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "tflite_micro.python.tflite_micro.runtime", None)
    monkeypatch.delitem(sys.modules, "anil_tf.export.runtime.tflm")
    with pytest.raises(ImportError, match=r"tflm runtime needs: pip install 'anil-tf\[tflm\]'"):
        open_bundle(micro_bundle, "tflm")
    _, skipped = verify_bundle(micro_bundle)
    assert "anil-tf[tflm]" in skipped["tflm"]


def test_an_evaluation_learns_on_it(micro_bundle, runtime, run):
    with np.load(run / "examples.npz") as examples:
        classes = ClassImages.from_arrays(examples["image"], examples["label"])
    sampler = EpisodeSampler(classes, ways=4, shots=(1, 3), queries=3)
    figures = evaluate_episodes(runtime, sampler, 20)
    expected = evaluate_episodes(open_bundle(micro_bundle, "onnx"), sampler, 20)
    assert (figures["runtime"], figures["inner_steps"]) == ("tflm", 5)
    assert figures["accuracy"] == pytest.approx(expected["accuracy"], abs=0.03)
    result = CliRunner().invoke(main, ["evaluate", str(micro_bundle), "--runtime", "nothing"])
    assert "'tflm'" in result.stderr


def test_running_it_imports_neither_tensorflow_nor_keras(micro_bundle):
    program = (
        "import sys; from anil_tf.export.runtime import open_bundle; "
        f"runtime = open_bundle({str(micro_bundle)!r}, 'tflm'); runtime.initial_head(3); "
        "print({'tensorflow', 'keras', 'onnxruntime', 'ai_edge_quantizer'} & set(sys.modules))"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert process.stdout.strip() == "set()", process.stderr
