"""The LiteRT files of a bundle: every function a signature of one file."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from anil_tf.export import layout
from anil_tf.export.graphs import Graphs, Tensors, specs
from anil_tf.export.signatures import NO_CLASS_BIAS, Signature, Tensor

# `adapt_and_predict` is three calls for whoever runs LiteRT, as it is for ONNX.
SIGNATURES = ("features", "initial_head", "adapt", "predict")

# Sizes of the file with fixed shapes. Whoever has fewer classes or rows pads them.
STATIC_WAYS = 20  # at least, where a head has any number of classes
STATIC_SHOTS = 5  # rows a class


def export_litert(graphs: Graphs, bundle: Path) -> None:
    """Write `litert/model.tflite` and, for runtimes without dynamic shapes, `model_static.tflite`.

    Args:
        graphs: From `graphs.build_graphs`.
        bundle: Folder of the bundle.

    Raises:
        ValueError: A function needs an operation that is not built into LiteRT.
    """
    functions = {name: graphs.functions[name] for name in SIGNATURES}
    _write(functions, graphs.weights, bundle / layout.LITERT)
    _write(_fix_shapes(graphs), graphs.weights, bundle / layout.LITERT_STATIC)


def _fix_shapes(graphs: Graphs) -> dict[str, Any]:
    """The functions with every axis fixed; `initial_head` marks the columns beyond `ways`.

    One image a call; as many classes as the head has, or can have; some rows for each.
    """
    ways = graphs.head.bias.size if not graphs.head.shared else max(STATIC_WAYS, graphs.head.ways)
    (_, feature_size) = graphs.signatures["features"].outputs["features"].axes
    sizes: dict[int | str, int | str] = {
        "batch": 1,
        "rows": STATIC_SHOTS * max(STATIC_WAYS, ways),
        "ways": ways,
        "features": feature_size,
    }

    def initial_head(ways: tf.Tensor) -> Tensors:
        head = graphs.head.tensors(tf.constant(sizes["ways"]))
        used = tf.range(sizes["ways"]) < ways
        return {
            "kernel": tf.where(used, head["kernel"], 0.0),
            "bias": tf.where(used, head["bias"], NO_CLASS_BIAS),
        }

    bodies = {name: graphs.functions[name].python_function for name in SIGNATURES}
    bodies["initial_head"] = initial_head

    def fix(tensor: Tensor) -> Tensor:
        return tensor._replace(axes=tuple(sizes.get(axis, axis) for axis in tensor.axes))

    def declare(name: str) -> Signature:
        inputs = graphs.signatures[name].inputs
        return Signature({key: fix(tensor) for key, tensor in inputs.items()}, {})

    return {
        name: tf.function(body, input_signature=specs(declare(name)))
        for name, body in bodies.items()
    }


def _write(functions: dict[str, Any], variables: Sequence[tf.Variable], path: Path) -> None:
    """Convert functions to signatures of one file, of built-in operations only."""
    module = tf.Module()
    module.variables_read = variables  # those not tracked would be missing from the file
    signatures = {name: function.get_concrete_function() for name, function in functions.items()}
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures=signatures)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=list(functions))
        content = converter.convert()
    check_builtin(content)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)


def check_builtin(content: bytes) -> None:
    """Refuse a model with an operation that not every LiteRT runtime has.

    Raises:
        ValueError: An operation is a custom one, or TensorFlow's (Flex).
    """
    model = schema.ModelT.InitFromPackedBuf(content)
    custom = [code.customCode.decode() for code in model.operatorCodes if code.customCode]
    if custom:
        raise ValueError(
            f"LiteRT has no built-in operation for {', '.join(custom)}: "
            "change the backbone, or export without litert"
        )
