"""The files for microcontrollers: sizes, bytes of pixels, headers, and what cannot be written."""

import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

from anil_tf import ANIL, backbones
from anil_tf.export import layout
from anil_tf.export.bundle import OperatorWarning, QuantizationWarning, export_bundle
from anil_tf.export.manifest import read_manifest
from anil_tf.export.signatures import declare
from anil_tf.export.verify import checks
from anil_tf.export.writers.bundle import EXPORTERS
from anil_tf.export.writers.graphs import InitialHead, build_graphs
from anil_tf.export.writers.litert import Room
from anil_tf.export.writers.tflm import export_tflm

runtime = pytest.importorskip("anil_tf.export.runtime.tflm")


def write(backbone, size, images, folder, room):
    """The functions of a backbone with an untrained head of unlike numbers."""
    kernel = np.random.default_rng(0).normal(0, 0.1, (size, 1)).astype(np.float32)
    head = InitialHead(kernel, np.ones(1, np.float32), True, 1.0, 1, 5)
    dtype = images.dtype.name
    graphs = build_graphs(backbone, head, declare(images.shape[1:], dtype, size))
    folder.mkdir()
    export_tflm(graphs, folder, room, images)
    return {
        name: runtime.MicroFunction(name, (folder / file).read_bytes())
        for name, file in layout.TFLM.items()
    }


def test_an_arena_of_the_measured_size_is_enough(micro_bundle, tmp_path):
    # In a process of its own: where the arena is too small, the interpreter may crash.
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from anil_tf.export.runtime import tflm\n"
        "for file in sys.argv[1:]:\n"
        "    path = Path(file)\n"
        "    tflm.MOST_ARENA = 2**24\n"
        "    needed = tflm.MicroFunction(path.stem, path.read_bytes()).arena_bytes\n"
        "    tflm.MOST_ARENA = needed\n"
        "    tflm.MicroFunction(path.stem, path.read_bytes())\n"
        "    print(path.stem)\n"
    )
    files = [micro_bundle / file for file in layout.TFLM.values()]
    process = subprocess.run([sys.executable, program, *files], capture_output=True, text=True)
    assert process.stdout.split() == list(layout.TFLM), process.stderr


def test_pixels_are_bytes_whatever_the_training_images_show(tmp_path):
    grey = np.random.default_rng(0).integers(100, 120, (4, 28, 28, 1), np.uint8)
    backbone = backbones.conv4_strided(filters=8)
    features = write(backbone, 8, grey, tmp_path / "bundle", Room(2, 4))["features"]
    assert features.inputs["image"] == ("int8", (1, 28, 28, 1))
    as_bytes = features(image=(grey[:1] ^ 0x80).view(np.int8))["features"]
    np.testing.assert_array_equal(features(image=grey[:1])["features"], as_bytes)
    exact = backbone(grey[:1]).numpy()
    found = features(image=grey[:1])["features"]
    assert np.linalg.norm(found - exact) < 0.1 * np.linalg.norm(exact)


def test_the_weights_of_a_large_backbone_are_found(images, tmp_path):
    """The quantizer puts weights of more than 256 kB where the library does not look."""
    backbone = backbones.conv4_strided(filters=112)
    features = write(backbone, 112, images, tmp_path / "bundle", Room(2, 4))["features"]
    assert (tmp_path / "bundle" / layout.TFLM["features"]).stat().st_size > 300_000
    exact = backbone(images[:1]).numpy()
    found = features(image=images[:1])["features"]
    assert np.linalg.norm(found - exact) < 0.1 * np.linalg.norm(exact)


def test_data_that_is_not_images_is_quantized_by_its_range(tmp_path):
    data = np.random.default_rng(0).uniform(-3, 5, (50, 1)).astype(np.float32)
    backbone = backbones.mlp((1,), units=16)
    features = write(backbone, 16, data, tmp_path / "bundle", Room(2, 4))["features"]
    exact = backbone(data).numpy()
    found = np.concatenate([features(image=row[np.newaxis])["features"] for row in data])
    assert np.abs(found - exact).max() < 0.05 * np.abs(exact).max()


def test_learning_and_predicting_have_no_operators_in_excess(micro_bundle):
    """Each operator of a program is code in the flash."""
    used = set()
    for name in ("initial_head", "adapt", "predict"):
        used |= runtime.MicroFunction(
            name, (micro_bundle / layout.TFLM[name]).read_bytes()
        ).operators.keys()
    assert len(used) <= 22 and "ONE_HOT" not in used


@pytest.mark.parametrize("name", layout.TFLM)
def test_a_header_holds_the_file_and_its_arena(micro_bundle, name):
    file = micro_bundle / layout.TFLM[name]
    header = file.with_name(f"anil_{name}.h").read_text()
    array = header.partition(f"anil_{name}[{file.stat().st_size}] = {{")[2].partition("}")[0]
    assert bytes(map(int, re.findall(r"\d+", array))) == file.read_bytes()
    function = runtime.MicroFunction(name, file.read_bytes())
    assert f"ANIL_{name.upper()}_ARENA_BYTES = {function.arena_bytes} " in header
    for index, (key, tensor) in enumerate(function.inputs.items()):
        assert f"ANIL_{name}_IN_{key} = {index},".upper() + f"  // {tensor}" in header
    assert ", ".join(function.operators) in header


@pytest.mark.parametrize("compiler", ["cc -std=c11 -x c", "c++ -std=c++11 -x c++"])
def test_c_and_cpp_take_the_headers(micro_bundle, tmp_path, compiler):
    if not shutil.which(compiler.split()[0]):
        pytest.skip("no compiler")
    includes = "\n".join(f'#include "anil_{name}.h"' for name in layout.TFLM)
    uses = " + ".join(f"anil_{name}[0] + ANIL_{name.upper()}_ARENA_BYTES" for name in layout.TFLM)
    source = tmp_path / "program"
    source.write_text(f"{includes}\nint main() {{ return ({uses}) < ANIL_ADAPT_IN_STEPS; }}\n")
    subprocess.run(
        [*compiler.split(), "-Wall", "-Wextra", "-Werror", "-I", micro_bundle / "tflm",
         source, "-o", tmp_path / "run"],
        check=True,
    )  # fmt: skip
    subprocess.run([tmp_path / "run"], check=True)


def test_a_head_of_fixed_classes_is_no_larger_than_itself(images, tmp_path):
    model = ANIL(backbones.conv4_strided((28, 28, 1), filters=8), ways=3, head_init="per_class")
    model.build({"support_x": (None, None, 28, 28, 1)})
    examples = np.resize(images, (20, 28, 28, 1)), np.repeat(np.arange(5), 4)
    manifest = export_bundle(model, tmp_path / "bundle", ["tflm"], examples=examples)
    assert manifest.formats == ["tflm"]
    (parity,) = manifest.parity
    assert parity.ok
    head = runtime.MicroFunction(
        "initial_head", (tmp_path / "bundle" / layout.TFLM["initial_head"]).read_bytes()
    )
    assert head(ways=np.int32(3))["kernel"].shape == (8, 3)


@pytest.fixture
def sorting():
    """A model with an operator that microcontrollers lack, and examples of it."""
    image = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3)(image)
    values, _ = keras.ops.top_k(keras.layers.Flatten()(x), 5)
    model = ANIL(keras.Model(image, values), ways=2, head_init="shared", name="sorting")
    model.build({"support_x": (None, None, 8, 8, 1)})
    examples = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1), np.uint8)
    return model, (examples, np.repeat([0, 1], 4))


def test_a_missing_operator_is_named_and_the_rest_is_exported(sorting, tmp_path):
    model, examples = sorting
    with pytest.warns(OperatorWarning, match="tflm is left out .* features: .*TOPK_V2") as caught:
        manifest = export_bundle(model, tmp_path / "bundle", ["onnx", "tflm"], examples=examples)
    assert manifest.formats == ["onnx"] and not (tmp_path / "bundle" / "tflm").exists()
    assert read_manifest(tmp_path / "bundle") == manifest
    (line,) = (str(w.message) for w in caught if w.category is OperatorWarning)
    assert "\n" not in line
    with pytest.warns(OperatorWarning), pytest.raises(ValueError, match="Nothing is left"):
        export_bundle(model, tmp_path / "other", ["tflm"], examples=examples)
    assert not (tmp_path / "other").exists()


def test_features_that_miss_their_bound_are_left_out(run, tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "INT8_BOUND", 1e-9)
    with pytest.warns(QuantizationWarning, match="tflm is left out of the bundle: its features"):
        manifest = export_bundle(run, tmp_path / "bundle", ["onnx", "tflm"])
    assert manifest.formats == ["onnx"]
    assert "tflm" not in {parity.runtime for parity in manifest.parity}


@pytest.mark.parametrize(("ways", "rows"), [(1, 25), (5, 4), (2, 3)])
def test_too_little_space_is_rejected_before_anything_is_read(tmp_path, ways, rows):
    with pytest.raises(ValueError, match=f"Received: ways={ways}, rows={rows}"):
        export_bundle("no such run", tmp_path / "bundle", ["tflm"], ways=ways, rows=rows)


def test_without_its_package_the_export_says_what_to_install(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "anil_tf.export.runtime.tflm", None)
    with pytest.raises(ImportError, match=r"target tflm needs: pip install 'anil-tf\[tflm\]'"):
        export_bundle(run, tmp_path / "bundle", ["tflm"])
    assert not list(tmp_path.iterdir())
    assert "tflm" not in EXPORTERS
