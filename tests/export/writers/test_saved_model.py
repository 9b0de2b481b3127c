"""The SavedModel, read as a server reads it."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from anil_tf.export import layout
from anil_tf.export.runtime import open_bundle
from anil_tf.export.signatures import declare


@pytest.fixture(scope="module")
def meta_graph(bundle):
    saved_model = saved_model_pb2.SavedModel()
    saved_model.ParseFromString((bundle / layout.SAVED_MODEL / "saved_model.pb").read_bytes())
    return saved_model.meta_graphs[0]


def folder_size(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "name", ["features", "initial_head", "adapt", "predict", "similarity", "adapt_and_predict"]
)
def test_a_signature_has_the_declared_names_and_axes(bundle, meta_graph, name):
    declared = declare((28, 28, 1), "uint8", open_bundle(bundle).manifest.feature_size)[name]
    definition = meta_graph.signature_def[name]
    for infos, tensors in (
        (definition.inputs, declared.inputs),
        (definition.outputs, declared.outputs),
    ):
        assert set(infos) == set(tensors)
        for key, tensor in tensors.items():
            assert tf.as_dtype(infos[key].dtype).name == tensor.dtype
            assert len(infos[key].tensor_shape.dim) == len(tensor.axes)
    for key, tensor in declared.inputs.items():
        sizes = [axis.size for axis in definition.inputs[key].tensor_shape.dim]
        assert sizes == [axis if isinstance(axis, int) else -1 for axis in tensor.axes]


def test_the_default_signature_adapts_and_predicts(meta_graph):
    assert set(meta_graph.signature_def["serving_default"].inputs) == {
        "support_image",
        "support_labels",
        "query_image",
    }


def test_weights_are_stored_once(bundle, run):
    import keras

    from anil_tf.model import ANIL

    model = keras.saving.load_model(run / "model.keras", compile=False)
    assert isinstance(model, ANIL)
    weights = sum(weight.nbytes for weight in model.backbone.get_weights())
    assert folder_size(bundle / layout.SAVED_MODEL) <= 1.3 * weights + 300_000
    data = next((bundle / layout.SAVED_MODEL / "variables").glob("*.data-*"))
    assert data.stat().st_size <= 1.3 * weights


def test_nothing_must_be_compiled_by_xla(meta_graph):
    for function in meta_graph.graph_def.library.function:
        assert not function.attr["_XlaMustCompile"].b, function.signature.name


def test_operations_are_built_in(meta_graph):
    graph = meta_graph.graph_def
    used = {node.op for node in graph.node}
    used |= {node.op for function in graph.library.function for node in function.node_def}
    functions = {function.signature.name for function in graph.library.function}
    known = {name for name in used - functions if tf.raw_ops.__dict__.get(name)}
    assert used - functions - known <= {"NoOp", "Const", "Placeholder"}


def test_one_call_does_what_the_separate_ones_do(bundle, images):
    runtime = open_bundle(bundle, "saved_model")
    labels = np.array([0, 1, 2, 0, 1, -1])
    features = runtime.features(images[:6])
    adapted = runtime.adapt(
        features, labels, *runtime.initial_head(3), runtime.inner_lr, runtime.inner_steps
    )
    _, expected = runtime.predict(runtime.features(images[6:]), adapted.kernel, adapted.bias)
    at_once = runtime.run(
        "adapt_and_predict",
        support_image=images[:6],
        support_labels=labels,
        query_image=images[6:],
    )
    np.testing.assert_allclose(at_once["probabilities"], expected, rtol=1e-5, atol=1e-6)
