"""The ONNX files: valid, named as declared, of standard operations."""

import onnx
import pytest

from anil_tf.export import layout
from anil_tf.export.manifest import read_manifest
from anil_tf.export.signatures import declare

NAMES = list(layout.ONNX)


def load(bundle, name):
    return onnx.load(bundle / layout.ONNX[name])


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
    onnx.checker.check_model(str(bundle / layout.ONNX[name]), full_check=True)


@pytest.mark.parametrize("name", NAMES)
def test_inputs_outputs_and_axes_are_as_declared(bundle, name):
    manifest = read_manifest(bundle)
    declared = declare(manifest.image_shape, manifest.image_dtype, manifest.feature_size)[name]
    graph = load(bundle, name).graph
    for values, tensors in ((graph.input, declared.inputs), (graph.output, declared.outputs)):
        assert [value.name for value in values] == list(tensors)
        assert [axes(value) for value in values] == [tensor.axes for tensor in tensors.values()]


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_is_opset_17_without_custom_operations(bundle, name):
    model = load(bundle, name)
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == 17
    assert {node.domain for node in all_nodes(model.graph)} == {""}


def test_the_feature_size_does_not_bind_adapt(bundle):
    kernel = next(value for value in load(bundle, "adapt").graph.input if value.name == "kernel")
    assert axes(kernel) == ("features", "ways")


def test_adaptation_is_one_loop(bundle):
    operations = [node.op_type for node in load(bundle, "adapt").graph.node]
    assert operations.count("Loop") == 1
