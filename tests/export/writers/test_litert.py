"""The LiteRT files: their signatures, shapes, operations and sizes."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from anil_tf import backbones
from anil_tf.closed_form import adapt
from anil_tf.export import layout
from anil_tf.export.manifest import list_files, read_manifest
from anil_tf.export.runtime import open_bundle
from anil_tf.export.signatures import NO_CLASS_BIAS, declare
from anil_tf.export.verify import reference
from anil_tf.export.writers.graphs import InitialHead, build_graphs, specs
from anil_tf.export.writers.litert import export_litert, quantize_litert, write_functions
from tests.export.writers.formats import RUNS, prepare

FILES = [layout.LITERT, layout.LITERT_STATIC]
NAMES = ["adapt", "features", "initial_head", "predict", "similarity"]
OPERATIONS = {code: name for name, code in vars(schema.BuiltinOperator).items()}


def read(path):
    return schema.ModelT.InitFromPackedBuf(path.read_bytes())


def operations(model, subgraph):
    """Names of the operations of a subgraph, in order."""
    (graph,) = [graph for graph in model.subgraphs if graph.name.decode() == subgraph]
    codes = [model.operatorCodes[operator.opcodeIndex] for operator in graph.operators]
    return [OPERATIONS[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in codes]


def runners(path):
    interpreter = Interpreter(str(path), num_threads=1)
    return {
        name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()
    }


def support(size, rows=10, ways=3, seed=0):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(0, 0.3, (rows, size)).astype(np.float32),
        (np.arange(rows) % ways).astype(np.int32),
        rng.normal(0, 0.1, (size, ways)).astype(np.float32),
        rng.normal(0, 0.1, ways).astype(np.float32),
    )


@pytest.mark.parametrize("file", FILES)
def test_names_and_types_are_as_declared(bundle, file):
    manifest = read_manifest(bundle)
    declared = declare(manifest.image_shape, manifest.image_dtype, manifest.feature_size)
    found = runners(bundle / file)
    assert sorted(found) == NAMES
    for name, runner in found.items():
        for details, tensors in (
            (runner.get_input_details(), declared[name].inputs),
            (runner.get_output_details(), declared[name].outputs),
        ):
            types = {key: np.dtype(detail["dtype"]).name for key, detail in details.items()}
            assert types == {key: tensor.dtype for key, tensor in tensors.items()}


def test_named_axes_are_dynamic(bundle):
    declared = declare((28, 28, 1), "uint8", 64)
    for name, runner in runners(bundle / layout.LITERT).items():
        for key, detail in runner.get_input_details().items():
            axes = declared[name].inputs[key].axes
            sizes = [axis if isinstance(axis, int) else -1 for axis in axes]
            assert detail["shape_signature"].tolist() == sizes, (name, key)


def test_no_shape_of_the_static_file_is_dynamic(bundle):
    for graph in read(bundle / layout.LITERT_STATIC).subgraphs:
        for tensor in graph.tensors:
            assert tensor.shapeSignature is None or -1 not in tensor.shapeSignature, tensor.name


@pytest.mark.parametrize(("fixture", "ways"), [("bundle", 20), ("per_class_bundle", 5)])
def test_the_static_file_has_room_for_what_the_head_can_have(request, fixture, ways):
    found = runners(request.getfixturevalue(fixture) / layout.LITERT_STATIC)
    shapes = {key: tuple(d["shape"]) for key, d in found["adapt"].get_input_details().items()}
    assert shapes["features"] == (100, 64) and shapes["kernel"] == (64, ways)
    assert tuple(found["features"].get_input_details()["image"]["shape"]) == (1, 28, 28, 1)
    assert tuple(found["predict"].get_input_details()["features"]["shape"]) == (1, 64)


def test_the_static_file_tells_unused_columns_itself(bundle):
    # As a client without this package calls it: it pads, and knows nothing of other labels.
    found = runners(bundle / layout.LITERT_STATIC)
    head = found["initial_head"](ways=np.int32(3))
    assert (head["bias"][3:] == np.float32(NO_CLASS_BIAS)).all() and not head["kernel"][:, 3:].any()
    features, labels, *_ = support(64)
    labels[4] = 3  # a class beyond the three in use
    adapted = found["adapt"](
        features=np.pad(features, [(0, 90), (0, 0)]),
        labels=np.pad(labels, (0, 90), constant_values=-1),
        learning_rate=np.float32(0.1),
        steps=np.int32(20),
        **head,
    )
    expected = reference.adapt(features, labels, head["kernel"][:, :3], head["bias"][:3], 0.1, 20)
    np.testing.assert_allclose(adapted["adapted_kernel"][:, :3], expected.kernel, atol=1e-6)
    np.testing.assert_allclose(adapted["initial_loss"], expected.initial_loss, rtol=1e-6)
    np.testing.assert_allclose(adapted["final_loss"], expected.final_loss, rtol=1e-6)
    assert adapted["rows_used"] == expected.rows_used == 9
    np.testing.assert_array_equal(adapted["adapted_bias"][3:], head["bias"][3:])
    assert not adapted["adapted_kernel"][:, 3:].any()
    predicted = found["predict"](
        features=features[:1], kernel=adapted["adapted_kernel"], bias=adapted["adapted_bias"]
    )
    assert not predicted["probabilities"][:, 3:].any()


@pytest.mark.parametrize("name", ["litert_static", "litert_compiled"])
@pytest.mark.parametrize(
    ("rows", "size", "ways", "message"),
    [
        (101, 64, 3, "model_static.tflite has room for 100 rows. Received: 101"),
        (6, 64, 21, "has room for 20 ways. Received: 21. The litert runtime takes any number"),
        (6, 11, 3, "has room for 64 features. Received: 11"),
    ],
)
def test_what_the_static_file_has_no_room_for_is_refused(bundle, name, rows, size, ways, message):
    with pytest.raises(ValueError, match=message):
        open_bundle(bundle, name).adapt(*support(size, rows, ways), 0.1, 1)


def test_more_classes_than_the_static_file_has_room_for_are_refused(bundle):
    with pytest.raises(ValueError, match="has room for 20 ways. Received: 21"):
        open_bundle(bundle, "litert_static").initial_head(21)


def test_a_step_is_six_operations_whatever_the_sizes(bundle):
    bodies = [operations(read(bundle / file), "while_body") for file in FILES]
    assert sorted(bodies[0]) == ["ADD", "ADD", "BATCH_MATMUL", "SOFTMAX", "SUB", "SUB"]
    assert bodies[1] == bodies[0]


def test_an_operation_that_is_not_built_in_is_refused(tmp_path):
    determinant = tf.function(
        lambda x: {"y": tf.linalg.det(x)},
        input_signature=[tf.TensorSpec([None, 3, 3], tf.float32, "x")],
    )
    with pytest.raises(ValueError, match="no built-in operation for FlexMatrixDeterminant"):
        write_functions({"determinant": determinant}, [], tmp_path / "x.tflite")
    assert not list(tmp_path.iterdir())


def test_adaptation_alone_is_a_small_file(tmp_path):
    inputs = declare((28, 28, 1), "uint8", 64)["adapt"].inputs
    function = tf.function(adapt, input_signature=specs(inputs))
    write_functions({"adapt": function}, [], tmp_path / "adapt.tflite")
    assert (tmp_path / "adapt.tflite").stat().st_size <= 12_000


@pytest.mark.parametrize("name", ["litert", "litert_static", "litert_compiled"])
def test_running_litert_imports_neither_tensorflow_nor_keras(bundle, name):
    program = (
        "import sys; from anil_tf.export.runtime import open_bundle; "
        f"runtime = open_bundle({str(bundle)!r}, {name!r}); runtime.initial_head(5); "
        "print({'tensorflow', 'keras', 'onnxruntime', 'ai_edge_quantizer'} & set(sys.modules))"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert process.stdout.strip() == "set()", process.stderr


@pytest.fixture(scope="module")
def omniglot(tmp_path_factory):
    """LiteRT files of the network of the Omniglot recipes, untrained."""
    folder = tmp_path_factory.mktemp("omniglot")
    backbone = backbones.conv4_strided(pooling=False, cosine=True, invert=True)
    head = InitialHead(np.zeros((256, 1), np.float32), np.zeros(1, np.float32), True, 1.0, 1, 20)
    export_litert(build_graphs(backbone, head, declare((28, 28, 1), "uint8", 256)), folder)
    return folder


def test_eight_bit_convolutions_make_the_file_small(omniglot, images):
    quantize_litert(omniglot, images)
    assert (omniglot / layout.LITERT_INT8).stat().st_size <= 160_000
    assert (omniglot / layout.LITERT).stat().st_size > 450_000
    exact, rounded = (
        runners(omniglot / file)["features"](image=images)["features"]
        for file in (layout.LITERT, layout.LITERT_INT8)
    )
    cosines = (exact * rounded).sum(axis=1)
    assert cosines.min() > 0.999 and not np.array_equal(exact, rounded)


@pytest.fixture(scope="module")
def int8(bundle, images, tmp_path_factory):
    import shutil

    copy = shutil.copytree(bundle, tmp_path_factory.mktemp("int8") / "bundle")
    quantize_litert(copy, images)
    read_manifest(bundle).model_copy(update={"files": list_files(copy)}).write(copy)
    return open_bundle(copy, "litert_int8")


def test_only_convolutions_are_quantized(int8, bundle):
    plain = open_bundle(bundle, "litert")
    assert (plain.precision, int8.precision) == ("float32", "int8")
    inputs = support(64)
    ours, theirs = int8.adapt(*inputs, 0.1, 5), plain.adapt(*inputs, 0.1, 5)
    np.testing.assert_array_equal(ours.kernel, theirs.kernel)
    np.testing.assert_array_equal(int8.initial_head(4)[0], plain.initial_head(4)[0])


def test_eight_bit_features_are_close(int8, bundle, images):
    exact = open_bundle(bundle, "litert").features(images)
    rounded = int8.features(images)
    assert np.abs(rounded - exact).max() < 0.05 * np.abs(exact).max()


def test_the_model_card_says_how_to_fill_up_the_static_file(bundle):
    card = (bundle / layout.MODEL_CARD).read_text(encoding="utf-8")
    assert "label -1" in card and "bias\n-1e+30" in card


def test_features_of_unit_length_are_zero_where_there_is_nothing(tmp_path):
    """A black image: `0 * min(1 / sqrt(0), 1e12)`, which LiteRT's own RSQRT makes NaN."""
    image = keras.Input((4, 4, 3))
    pixels = keras.layers.Flatten()(image)
    backbone = keras.Model(image, keras.layers.UnitNormalization()(pixels))
    images = np.stack([np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 7, np.uint8)])
    graphs, _ = prepare(backbone, images)
    for kind, run in RUNS.items():
        features = run(graphs, images, tmp_path)
        np.testing.assert_allclose(features, backbone(images), atol=1e-6, err_msg=kind)
        assert not features[0].any() and features[1].all()
