"""Damaged bundles and heads at the command line: refused by name, before anything runs."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from anil_tf.cli import main
from anil_tf.export import layout


@pytest.fixture
def damaged(bundle, copy_of):
    return copy_of(bundle)


@pytest.fixture
def picture(tmp_path):
    Image.new("L", (28, 28), 90).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.fixture
def support(tmp_path):
    for name, grey in {"dark": 20, "light": 230}.items():
        (tmp_path / "support" / name).mkdir(parents=True)
        Image.new("L", (28, 28), grey).save(tmp_path / "support" / name / "1.png")
    return tmp_path / "support"


def anil(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def assert_refused(result, *fragments):
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert all(fragment in last for fragment in fragments), last


def every_command(bundle, support, tmp_path):
    """The commands that open a bundle, and the runtimes behind them."""
    yield anil("verify", bundle)
    yield anil("adapt", bundle, "--support", support, "--output", tmp_path / "head.npz")
    for runtime in ("onnx", "onnx_int8", "saved_model"):
        yield anil("evaluate", bundle, "--runtime", runtime)


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "flipped": flip_a_bit,
    "emptied": lambda path: path.write_bytes(b""),
    "renamed": lambda path: path.rename(path.with_name("renamed")),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(
    "file", ["onnx/backbone.onnx", "onnx/backbone_int8.onnx", "onnx/adapt.ort", "adapt.py"]
)
def test_a_damaged_file_is_named(damaged, support, tmp_path, damage, file):
    DAMAGE[damage](damaged / file)
    what = "is missing" if damage == "renamed" else "differs from its sha256"
    for result in every_command(damaged, support, tmp_path):
        assert_refused(result, f"{file} {what}")
    assert not (tmp_path / "head.npz").exists()


def test_a_damaged_weight_file_of_the_saved_model_is_named(damaged, support, tmp_path):
    (path,) = (damaged / layout.SAVED_MODEL / "variables").glob("*.data-*")
    flip_a_bit(path)
    for result in every_command(damaged, support, tmp_path):
        assert_refused(result, path.name, "differs from its sha256")


def rewrite(bundle, **changes):
    path = bundle / layout.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("runtime", ["onnx", "onnx_int8"])
@pytest.mark.parametrize(
    ("key", "value", "was"),
    [
        ("feature_size", 63, "64"),
        ("ways", 7, "5"),
        ("head_init", "per_class", "shared"),
        ("inner_steps", 50, "5"),
        ("inner_lr", 0.5, "0.04999"),
        ("backbone_sha256", "0" * 64, ""),
    ],
)
def test_a_manifest_that_disagrees_with_the_onnx_files_is_refused(
    damaged, tmp_path, runtime, key, value, was
):
    rewrite(damaged, **{key: value})
    result = anil("evaluate", damaged, "--runtime", runtime)
    assert_refused(result, "the manifest does not fit onnx/", f"{key} = {was}", f"{key} = {value}")


@pytest.mark.parametrize("runtime", ["onnx", "onnx_int8", "saved_model"])
@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("image_shape", [32, 32, 1], "uint8 [batch, 32, 32, 1] by the manifest"),
        ("image_shape", [28, 28, 3], "uint8 [batch, 28, 28, 3] by the manifest"),
        ("image_dtype", "float32", "float32 [batch, 28, 28, 1] by the manifest"),
    ],
)
def test_a_manifest_of_other_images_is_refused(damaged, runtime, key, value, found):
    rewrite(damaged, **{key: value})
    result = anil("evaluate", damaged, "--runtime", runtime)
    assert_refused(result, "does not fit the graph of features", found)


def test_a_manifest_of_another_feature_size_does_not_fit_the_saved_model(damaged):
    rewrite(damaged, feature_size=63)
    result = anil("evaluate", damaged, "--runtime", "saved_model")
    assert_refused(result, "does not fit the graph of features", "64] in the graph", "63] by")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel": np.zeros((63, 2), np.float32)}, "was made with another bundle"),
        ({"backbone_sha256": np.array("f" * 64)}, "was made with another bundle"),
        ({"kernel": np.zeros((64, 3), np.float32)}, "kernel must be float32 [64, 2]"),
        ({"bias": np.zeros(3, np.float32)}, "bias must be float32 [2]"),
        ({"names": np.array(["dark"])}, "kernel must be float32 [64, 1]"),
        ({"support_features": np.zeros((2, 63), np.float32)}, "support_features must be"),
        ({"support_labels": np.array([0, 2], np.int32)}, "support_labels must lie in 0..1"),
        ({"bias": np.array([0, np.nan], np.float32)}, "bias has values that are not finite"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(bundle, support, picture, tmp_path, changes, message):
    head = tmp_path / "head.npz"
    assert anil("adapt", bundle, "--support", support, "--output", head).exit_code == 0
    with np.load(head) as arrays:
        stored = dict(arrays)
    np.savez(head, **stored | changes)
    assert_refused(anil("predict", bundle, "--head", head, picture), "head.npz", message)
    grown = anil("adapt", bundle, "--from", head, "--support", support, "--output", tmp_path / "g")
    assert_refused(grown, "head.npz", message)
    assert not (tmp_path / "g").exists()


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied"])
def test_a_damaged_head_is_refused(bundle, support, picture, tmp_path, damage):
    head = tmp_path / "head.npz"
    assert anil("adapt", bundle, "--support", support, "--output", head).exit_code == 0
    DAMAGE[damage](head)
    assert_refused(anil("predict", bundle, "--head", head, picture), "head.npz is not a head")
