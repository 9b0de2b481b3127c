"""The ONNX files: valid, named as declared, of standard operations, in both formats the same."""

import logging
import os
import shutil
from pathlib import Path

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from onnxruntime.tools.mobile_helpers import usability_checker
from tf2onnx.constants import ENV_TF2ONNX_CATCH_ERRORS
from tf2onnx.optimizer.transpose_optimizer import TransposeOptimizer

from anil_tf import ANIL, backbones
from anil_tf.export import layout
from anil_tf.export.bundle import export_bundle
from anil_tf.export.manifest import read_manifest
from anil_tf.export.runtime import open_bundle
from anil_tf.export.signatures import declare
from anil_tf.export.verify.episodes import ReferenceEpisodes
from anil_tf.export.writers import onnx as onnx_writer
from tests.export.writers.formats import prepare

STATUS = Path("/proc/self/status")

SIGNATURES = [*layout.ONNX, *layout.ONNX_SIMILARITY]
FILES = {**layout.ONNX, **layout.ONNX_SIMILARITY, "features, int8": layout.ONNX_INT8}
NAMES = list(FILES)


def load(bundle, name):
    return onnx.load(bundle / FILES[name])


def open_file(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def axes(value):
    return tuple(axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim)


def all_nodes(graph):
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from all_nodes(attribute.g)


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_passes_the_full_check(bundle, name):
    onnx.checker.check_model(str(bundle / FILES[name]), full_check=True)


@pytest.mark.parametrize("name", NAMES)
def test_inputs_outputs_and_axes_are_as_declared(bundle, name):
    manifest = read_manifest(bundle)
    signatures = declare(manifest.image_shape, manifest.image_dtype, manifest.feature_size)
    declared = signatures[name.removesuffix(", int8")]
    graph = load(bundle, name).graph
    for values, tensors in ((graph.input, declared.inputs), (graph.output, declared.outputs)):
        assert [value.name for value in values] == list(tensors)
        assert [axes(value) for value in values] == [tensor.axes for tensor in tensors.values()]


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_is_opset_17_without_custom_operations(bundle, name):
    model = load(bundle, name)
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 17}
    assert {node.domain for node in all_nodes(model.graph)} == {""}


@pytest.mark.parametrize("suffix", [".onnx", ".ort"])
@pytest.mark.parametrize("name", NAMES)
def test_a_file_alone_says_what_it_is(bundle, name, suffix):
    manifest = read_manifest(bundle)
    found = open_file((bundle / FILES[name]).with_suffix(suffix)).get_modelmeta()
    assert found.custom_metadata_map == {
        "ways": "5",
        "shots": "2",
        "head_init": "shared",
        "inner_lr": str(manifest.inner_lr),
        "inner_steps": "5",
        "feature_size": "64",
        "backbone_sha256": manifest.backbone_sha256,
        "anil-tf": manifest.versions["anil-tf"],
        **({"precision": "int8"} if "int8" in name else {}),
    }


def feeds(bundle, name):
    """Inputs of a signature, of one of the bundle's own episodes."""
    v = ReferenceEpisodes.read(bundle)
    head = {"kernel": v.kernel, "bias": v.bias}
    support = v.support_features[0].astype(np.float32)
    return {
        "features": {"image": v.support_image[0]},
        "initial_head": {"ways": np.int32(7)},
        "adapt": {
            "features": support,
            "labels": v.support_labels[0],
            **head,
            "learning_rate": np.float32(0.05),
            "steps": np.int32(5),
        },
        "predict": {"features": support, **head},
        "similarity": {
            "features": support,
            "support_features": support,
            "support_labels": v.support_labels[0],
            "ways": np.int32(5),
        },
    }[name.removesuffix(", int8")]


@pytest.mark.parametrize("name", NAMES)
def test_the_ort_file_computes_what_the_onnx_file_does(bundle, name):
    inputs = {key: np.asarray(value) for key, value in feeds(bundle, name).items()}
    expected = open_file(bundle / FILES[name]).run(None, inputs)
    actual = open_file((bundle / FILES[name]).with_suffix(".ort")).run(None, inputs)
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_the_folder_holds_models_and_nothing_else(bundle):
    names = {path.name for path in (bundle / "onnx").iterdir()}
    stems = {"backbone", "backbone_int8", "initial_head", "adapt", "predict", "similarity"}
    assert names == {f"{stem}{suffix}" for stem in stems for suffix in (".onnx", ".ort")}


# `adapt` is left out: its loop is for the CPU, which is fast enough for its few small products. So
# is `predict`: the checker stops at a graph that has no value between its inputs and its output.
@pytest.mark.parametrize("name", ["features", "features, int8", "initial_head"])
def test_a_phone_s_accelerator_may_run_it(bundle, name):
    logger = logging.getLogger("usability")
    logger.setLevel(logging.WARNING)
    assert usability_checker.analyze_model(bundle / FILES[name], logger=logger)


def test_the_feature_size_does_not_bind_adapt(bundle):
    kernel = next(value for value in load(bundle, "adapt").graph.input if value.name == "kernel")
    assert axes(kernel) == ("features", "ways")


def test_adaptation_is_one_loop(bundle):
    operations = [node.op_type for node in load(bundle, "adapt").graph.node]
    assert operations.count("Loop") == 1


def test_the_backbone_computes_no_shapes(bundle):
    operations = {node.op_type for node in load(bundle, "features").graph.node}
    assert not operations & {"Shape", "Gather", "Concat"}


def test_int8_weights_have_7_bits_and_one_scale_per_channel(bundle):
    graph = load(bundle, "features, int8").graph
    constants = {c.name: onnx.numpy_helper.to_array(c) for c in graph.initializer}
    kernels = [value for value in constants.values() if value.ndim == 4 and value.dtype == np.int8]
    assert len(kernels) == 3
    assert 60 < max(np.abs(value).max() for value in kernels) <= 64
    dequantized = [node.input for node in graph.node if node.op_type == "DequantizeLinear"]
    for values, scale, *_ in dequantized:
        weights = constants.get(values)
        channels = 1 if weights is None else weights.shape[0]
        assert constants[scale].size == channels


def test_int8_leaves_the_first_convolution_and_the_last_one_s_output_in_floats(bundle):
    graph = load(bundle, "features, int8").graph
    taken_by = {name: node.op_type for node in graph.node for name in node.input}
    given_by = {name: node.op_type for node in graph.node for name in node.output}
    first, *convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert given_by[first.input[0]] != "DequantizeLinear"
    assert {given_by[node.input[0]] for node in convolutions} == {"DequantizeLinear"}
    assert [taken_by[node.output[0]] for node in convolutions[:-1]] == ["QuantizeLinear"] * 2
    assert taken_by[convolutions[-1].output[0]] != "QuantizeLinear"
    # ReLU is left where it is not part of a quantized range.
    assert [node.op_type for node in graph.node].count("Relu") == 2


@pytest.fixture(scope="module", params=["conv4", "resnet12"])
def other_bundle(request, run, tmp_path_factory):
    """Backbones with pooling and with shortcuts, features of unit length."""
    folder = tmp_path_factory.mktemp(request.param)
    shutil.copytree(run, folder / "run")
    keras.utils.set_random_seed(3)
    backbone = getattr(backbones, request.param)((28, 28, 1), filters=8, cosine=True)
    model = ANIL(backbone, ways=5, head_init="shared", inner_lr=0.05)
    model.build({"support_x": (None, None, 28, 28, 1)})
    model.save(folder / "run" / "model.keras")
    export_bundle(folder / "run", folder / "bundle", ["onnx"], int8=True)
    return folder / "bundle"


@pytest.mark.slow
def test_other_backbones_are_quantized_too(other_bundle, images):
    exact = open_bundle(other_bundle).features(images)
    runtime = open_bundle(other_bundle, "onnx_int8")
    np.testing.assert_allclose((exact * runtime.features(images)).sum(axis=1), 1, atol=1e-3)


def test_int8_keeps_the_direction_of_features(bundle, images):
    exact, rough = (open_bundle(bundle, name).features(images) for name in ("onnx", "onnx_int8"))
    lengths = np.linalg.norm(exact, axis=1) * np.linalg.norm(rough, axis=1)
    np.testing.assert_array_less(0.995, (exact * rough).sum(axis=1) / lengths)
    assert np.abs(exact - rough).max() > 1e-4 * np.abs(exact).max()


def test_a_backbone_without_convolutions_is_not_quantized(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    model = ANIL(backbones.mlp((28, 28, 1)), ways=5)
    model.build({"support_x": (None, None, 28, 28, 1)})
    model.save(copy / "model.keras")
    with pytest.raises(ValueError, match="this backbone has none: export without it"):
        export_bundle(copy, tmp_path / "bundle", ["onnx"], int8=True)


def test_the_reference_evaluator_runs_adapt_alone(bundle, more_runtimes):
    runtime = open_bundle(bundle, "onnx_reference")
    assert set(runtime.signatures) == {"adapt"}
    inputs = feeds(bundle, "adapt")
    expected = open_bundle(bundle).run("adapt", **inputs)
    for name, value in runtime.run("adapt", **inputs).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6)


def dense_graphs(units: int):
    """Graphs of two dense layers."""
    image = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(image)
    for _ in range(2):
        x = keras.layers.Dense(units)(x)
    return prepare(keras.Model(image, x), np.zeros((4, 8, 8, 1), np.uint8))[0]


def memory(name: str) -> int:
    """A figure of this process in bytes, such as `VmRSS`, or `VmHWM`, the most since a reset."""
    (line,) = (row for row in STATUS.read_text().splitlines() if row.startswith(name))
    return 1024 * int(line.split()[1])


@pytest.mark.skipif(not STATUS.exists(), reason="Linux alone tells the most memory used")
def test_a_conversion_holds_few_copies_of_the_weights(tmp_path):
    graphs, weights = dense_graphs(2048), 4 * (64 * 2048 + 2048 * 2048)
    Path("/proc/self/clear_refs").write_text("5")  # resets the most memory used
    before = memory("VmRSS")
    onnx_writer.export_function(graphs, "features", tmp_path / "backbone.onnx")
    assert memory("VmHWM") - before < 35 * weights


def test_an_optimizer_of_the_converter_that_fails_is_skipped(tmp_path, monkeypatch):
    def fail(self, graph):
        raise RuntimeError("no such shape")

    monkeypatch.setattr(TransposeOptimizer, "_optimize", fail)
    graphs = dense_graphs(16)
    onnx_writer.export_function(graphs, "features", tmp_path / "backbone.onnx")
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    session = onnxruntime.InferenceSession(tmp_path / "backbone.onnx")
    expected = graphs.functions["features"](images)["features"]
    np.testing.assert_allclose(session.run(None, {"image": images})[0], expected, rtol=1e-5)
    assert ENV_TF2ONNX_CATCH_ERRORS not in os.environ
