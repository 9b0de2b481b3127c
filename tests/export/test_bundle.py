"""What is exported, what is refused, and that a failure leaves nothing behind."""

import json
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image

from anil_tf import ANIL, MAML, NIL, ClassImages, EpisodeSampler, backbones, with_views
from anil_tf.export.bundle import QuantizationWarning, check_exportable, export_bundle
from anil_tf.export.manifest import read_manifest
from anil_tf.export.predictor import Predictor
from anil_tf.export.runtime import open_bundle
from anil_tf.export.verify import checks
from anil_tf.export.writers import bundle as bundle_writer
from anil_tf.export.writers.graphs import build_graphs
from anil_tf.export.writers.precision import with_precision
from anil_tf.training.evaluate import evaluate_path
from anil_tf.training.recipe import read_recipe


def tiny_model(**settings):
    backbone = backbones.conv4_strided((8, 8, 1), filters=4)
    return ANIL(backbone, **{"ways": 5, **settings})


@pytest.fixture
def run_copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


@pytest.fixture(scope="module")
def onnx_bundle(run, tmp_path_factory):
    """Its bundle with ONNX files alone. Not to be changed."""
    output = tmp_path_factory.mktemp("onnx") / "bundle"
    export_bundle(run, output, ["onnx"])
    return output


def test_the_manifest_says_what_the_model_is(bundle):
    manifest = read_manifest(bundle)
    assert (manifest.name, manifest.seed) == ("tiny", 7)
    assert (manifest.image_shape, manifest.image_dtype) == ((28, 28, 1), "uint8")
    assert (manifest.feature_size, manifest.ways, manifest.head_init) == (64, 5, "shared")
    assert manifest.shots == 2
    assert manifest.inner_lr == pytest.approx(0.05) and manifest.inner_steps == 5
    assert (manifest.norm, manifest.loss) == ("batch", "cross_entropy")
    assert manifest.data["source"] == "noise" and manifest.evaluation == {"episodes": 10}
    assert set(manifest.versions) == {"anil-tf", "keras", "onnx", "tensorflow"}


def test_the_last_evaluation_is_quoted_and_the_steps_are_those_of_evaluation(run_copy, tmp_path):
    figures = {"runtime": "keras", "accuracy": 0.9512, "ci95": 0.0034, "ways": 5, "shots": 1}
    (run_copy / "metrics.json").write_text(json.dumps({"evaluate": figures}))
    recipe = run_copy / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("[evaluation]", "[evaluation]\ninner_steps = 17"))
    manifest = export_bundle(run_copy, tmp_path / "bundle", ["onnx"])
    assert manifest.inner_steps == 17
    assert manifest.accuracy == {"keras": figures}
    assert "95.12 ± 0.34 %" in (tmp_path / "bundle" / "README.md").read_text(encoding="utf-8")


def test_a_process_that_built_no_model_can_export_one(run, tmp_path):
    # The layers inside a saved model must be known before it is loaded.
    program = (
        "import sys; from anil_tf.export.bundle import export_bundle; "
        f"export_bundle({str(run)!r}, {str(tmp_path / 'bundle')!r}, ['onnx'])"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "bundle" / "manifest.json").is_file()


def test_a_bundle_without_evaluation_says_so(bundle):
    assert "Not measured" in (bundle / "README.md").read_text(encoding="utf-8")


def test_only_the_targets_asked_for_are_written(onnx_bundle):
    manifest = read_manifest(onnx_bundle)
    assert manifest.formats == ["onnx"]
    assert {parity.runtime for parity in manifest.parity} == {"onnx"}


@pytest.mark.parametrize("target", ["onnx", "litert"])
def test_the_script_comes_with_onnx_and_the_model_card_shows_it(run, tmp_path, onnx_bundle, target):
    bundle = onnx_bundle if target == "onnx" else tmp_path / "bundle"
    if target != "onnx":
        export_bundle(run, bundle, [target])
    card = (bundle / "README.md").read_text(encoding="utf-8")
    assert (bundle / "adapt.py").is_file() == (target == "onnx")
    assert ("python adapt.py learn" in card) == (target == "onnx")


def test_int8_needs_a_target_that_has_it(run, tmp_path):
    with pytest.raises(ValueError, match=r"int8 needs one of the targets .*'saved_model'"):
        export_bundle(run, tmp_path / "bundle", ["saved_model"], int8=True)


def test_a_quantized_backbone_that_misses_its_bound_is_left_out(run, tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "INT8_BOUND", 1e-9)
    with pytest.warns(QuantizationWarning, match="left out") as caught:
        manifest = export_bundle(run, tmp_path / "bundle", ["onnx", "litert"], int8=True)
    said = [str(w.message) for w in caught if w.category is QuantizationWarning]
    assert [line.split()[0] for line in said] == [
        "onnx/backbone_int8.onnx",
        "litert/model_int8.tflite",
    ]
    wanted = r"features differ from float64 by 0\.\d+, the bound is .*\. Use the float32 model"
    assert all(re.search(wanted, line) for line in said)
    assert not [name for name in manifest.files if "int8" in name]
    assert not list((tmp_path / "bundle").rglob("*int8*"))
    runtimes = {parity.runtime for parity in manifest.parity}
    assert runtimes >= {"onnx", "litert", "litert_static", "litert_compiled"}
    assert not runtimes & {"onnx_int8", "litert_int8"}
    assert read_manifest(tmp_path / "bundle") == manifest  # every file fits its digest
    assert "_int8" not in (tmp_path / "bundle" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("views", ["mirrored", "moved"])
def test_a_model_of_several_views_agrees_in_every_runtime(tmp_path, views):
    keras.utils.set_random_seed(0)
    backbone = backbones.conv4_strided((12, 12, 1), filters=8, blocks=2, cosine=True)
    model = ANIL(with_views(backbone, views, length=1.0), ways=5, head_init="shared")
    images = np.random.default_rng(0).integers(0, 256, (20, 12, 12, 1)).astype(np.uint8)
    examples = images, np.repeat(np.arange(4), 5)
    targets = ["onnx", "litert", "tflm"]
    parity = export_bundle(model, tmp_path / "bundle", targets, True, examples=examples).parity
    assert all(runtime.ok for runtime in parity)
    assert {"onnx_int8", "litert_int8", "tflm"} <= {runtime.runtime for runtime in parity}


@pytest.fixture(scope="module")
def fitted():
    """A model after `fit`, with images that it was trained on."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), 7)
    brightness = 20 + 25 * labels[:, np.newaxis, np.newaxis, np.newaxis]
    images = rng.normal(brightness, 10, (56, 16, 16, 3)).clip(0, 255).astype(np.uint8)
    classes = ClassImages.from_arrays(images, labels)
    sampler = EpisodeSampler(classes, ways=3, shots=1, queries=2)
    backbone = backbones.conv4((16, 16, 3), filters=8)
    model = ANIL(backbone, ways=3, head_init="shared", name="lamps")
    model.compile(keras.optimizers.Adam(1e-3))
    model.fit(sampler.dataset(batches=20, tasks=2), shuffle=False, verbose=0)
    return model, images, labels


def test_a_model_is_exported_from_memory(fitted, tmp_path):
    model, images, labels = fitted
    manifest = export_bundle(model, tmp_path / "bundle", examples=(images, labels))
    assert (manifest.name, manifest.shots, manifest.seed, manifest.data) == (
        "lamps",
        None,
        None,
        {},
    )
    assert manifest.formats == ["litert", "onnx", "saved_model"]
    assert all(parity.ok for parity in manifest.parity)
    runtime = open_bundle(tmp_path / "bundle")
    expected = model.backbone(images, training=False).numpy()
    np.testing.assert_allclose(runtime.features(images), expected, atol=1e-5)
    predictor = Predictor(tmp_path / "bundle")
    predictor.learn(images[:21], ["a"] * 7 + ["b"] * 7 + ["c"] * 7)
    assert predictor.predict(images[:21]).shape == (21, 3)
    card = (tmp_path / "bundle" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# lamps\n") and "Not stated" in card


def test_a_bundle_from_memory_is_named_and_evaluated_on_a_folder_if_it_says_so(fitted, tmp_path):
    model, images, labels = fitted
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        (tmp_path / "photos" / f"class {label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "photos" / f"class {label}" / f"{index}.png")
    data = {"source": "folder", "image_shape": [16, 16, 3], "split_sizes": [1, 1, 2]}
    settings = {"ways": 3, "shots": 1, "queries": 2, "episodes": 4}
    for name, stated in (("stated", data), ("silent", None)):
        manifest = export_bundle(
            model, tmp_path / name, ["onnx"], examples=(images, labels), name=name, data=stated
        )
        assert (manifest.name, manifest.data) == (name, stated or {})
    figures = evaluate_path(tmp_path / "stated", tmp_path / "photos", overrides=settings)
    assert (figures["seed"], figures["runtime"]) == (0, "onnx")
    with pytest.raises(ValueError, match="silent does not say .* export it with data="):
        evaluate_path(tmp_path / "silent", tmp_path / "photos", overrides=settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: None, r"give examples=\(images, labels\)"),
        (lambda x, y: (x, y[1:]), r"n labels. Received: shapes \[56, 16, 16, 3\] and \[55\]"),
        (lambda x, y: (x.astype(np.int32), y), "must be uint8 or float32. Received: int32"),
        (lambda x, y: (x[:, :6], y), r"takes images of shape \[16, 16, 3\]. .* \[6, 16, 3\]"),
        (lambda x, y: (x, np.arange(56)), "two classes of 4 examples. Received: 0"),
        (lambda x, y: (x[:0], y[:0]), "two classes of 4 examples. Received: 0"),
    ],
)
def test_examples_that_do_not_fit_the_model_are_refused(fitted, tmp_path, change, message):
    model, images, labels = fitted
    with pytest.raises(ValueError, match=message):
        export_bundle(model, tmp_path / "bundle", ["onnx"], examples=change(images, labels))
    assert list(tmp_path.iterdir()) == []


def test_examples_beside_a_run_are_refused(run, tmp_path):
    with pytest.raises(ValueError, match="which has its own examples, name and data"):
        export_bundle(run, tmp_path / "bundle", name="another")


def test_a_run_made_by_hand_needs_no_more_than_a_recipe_does(run_copy, tmp_path):
    (run_copy / "recipe.toml").write_text(
        'name = "mine"\n[data]\nsource = "folder"\nimage_shape = [28, 28, 1]\n'
        '[model.backbone]\nname = "conv4"\n'
    )
    read_recipe(run_copy / "recipe.toml")  # accepted as it is
    manifest = export_bundle(run_copy, tmp_path / "bundle", ["onnx"])
    assert (manifest.name, manifest.seed, manifest.shots) == ("mine", None, None)


def test_examples_without_labels_are_refused(run_copy, tmp_path):
    np.savez(run_copy / "examples.npz", image=np.zeros((8, 28, 28, 1), np.uint8))
    with pytest.raises(ValueError, match=r"must hold the arrays image and label. .* no label"):
        export_bundle(run_copy, tmp_path / "bundle", ["onnx"])


def test_data_other_than_images_is_exported_in_float32(run_copy, tmp_path):
    model = ANIL(backbones.mlp((6,)), ways=5)
    model.build({"support_x": (None, None, 6)})
    model.save(run_copy / "model.keras")
    vectors = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
    np.savez(run_copy / "examples.npz", image=vectors, label=np.repeat(np.arange(10), 6))
    export_bundle(run_copy, tmp_path / "bundle", ["onnx"])
    runtime = open_bundle(tmp_path / "bundle")
    assert runtime.features(vectors).shape == (60, 40)
    with pytest.raises(ValueError, match=r"takes float32 \[6\] data, not images"):
        _ = runtime.image_shape


@pytest.mark.parametrize("targets", [["onnx", "floppy"], []])
def test_an_unknown_target_is_refused(run, tmp_path, targets):
    with pytest.raises(ValueError, match="targets must be some of"):
        export_bundle(run, tmp_path / "bundle", targets)


def test_an_existing_output_is_refused(run, tmp_path):
    with pytest.raises(FileExistsError, match="Remove it or choose another output"):
        export_bundle(run, tmp_path)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a finished run: it has no recipe.toml"):
        export_bundle(tmp_path, tmp_path / "bundle")


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_copy_that_differs_from_the_keras_model_is_refused(run, tmp_path, monkeypatch, precision):
    def distorted(backbone, dtype):
        copy = with_precision(backbone, dtype)
        if dtype == precision:
            copy.set_weights([weight * 1.01 for weight in copy.get_weights()])
        return copy

    monkeypatch.setattr(bundle_writer, "with_precision", distorted)
    with pytest.raises(
        ValueError, match=r"answers differently, by .* from the layer 'block1_conv'"
    ):
        export_bundle(run, tmp_path / "bundle", ["onnx"])
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_disagrees_with_the_reference_leaves_nothing(run, tmp_path, monkeypatch):
    def distorted(backbone, *arguments):
        backbone.set_weights([weight * np.float32(1.001) for weight in backbone.get_weights()])
        return build_graphs(backbone, *arguments)

    monkeypatch.setattr(bundle_writer, "build_graphs", distorted)
    with pytest.raises(
        ValueError, match="does not agree with the float64 reference: onnx features"
    ):
        export_bundle(run, tmp_path / "bundle", ["onnx"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "task"}, "train with norm='batch' or norm='frozen' to export"),
        ({"loss": "mse"}, "loss='cross_entropy' are exported"),
        ({"head": keras.layers.Dense(5)}, "Only the linear head is exported"),
    ],
)
def test_what_could_not_run_as_it_was_trained_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        check_exportable(tiny_model(**settings))


def test_another_keras_model_is_refused():
    with pytest.raises(ValueError, match="Only anil_tf.ANIL models"):
        check_exportable(backbones.mlp())


@pytest.mark.parametrize("algorithm", [MAML, NIL])
def test_another_algorithm_is_refused(algorithm):
    model = algorithm(backbones.conv4_strided((8, 8, 1), filters=4), ways=5, norm="task")
    with pytest.raises(ValueError, match=f"not an ANIL but {algorithm.__name__}"):
        check_exportable(model)


def test_a_model_trained_in_mixed_precision_is_exported_in_float32(run_copy, tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        backbone = backbones.conv4_strided((28, 28, 1), filters=4)
    finally:
        keras.config.set_dtype_policy("float32")
    model = ANIL(backbone, ways=5, head_init="shared")
    model.build({"support_x": (None, None, 28, 28, 1)})
    model.save(run_copy / "model.keras")
    # Verified against float64 at 1e-5, which bfloat16 would miss by far.
    assert export_bundle(run_copy, tmp_path / "bundle", ["onnx"]).parity


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_backbone_in_another_precision_has_the_same_weights(dtype):
    backbone = backbones.resnet12((8, 8, 3), filters=4)
    copy = with_precision(backbone, dtype)
    assert {variable.dtype for variable in copy.variables} == {dtype}
    for ours, theirs in zip(copy.get_weights(), backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
