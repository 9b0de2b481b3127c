"""The LiteRT files of a bundle. Every function is a signature of one file.

`model.tflite` takes any sizes. `model_static.tflite` has fixed shapes, for runtimes that need them;
it has space for a number of rows and classes, and unused ones are marked with
`signatures.NO_CLASS_LABEL` and `NO_CLASS_BIAS`. `model_int8.tflite` has 8-bit convolutions.
"""

import contextlib
import io
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_quantizer.qtyping import TFLOperationName
from ai_edge_quantizer.quantizer import Quantizer
from tensorflow.lite.python.convert_phase import ConverterError

from anil_tf.closed_form import Tensors, adapt, similarity
from anil_tf.export import layout
from anil_tf.export.signatures import NO_CLASS_BIAS, NO_CLASS_LABEL, TensorSpec
from anil_tf.export.writers.graphs import Graphs, InitialHead, specs
from anil_tf.export.writers.litert_rsqrt import replace_rsqrt

# `adapt_and_predict` takes three calls with LiteRT, as with ONNX.
SIGNATURES = ("features", "initial_head", "adapt", "predict", "similarity")

# Space in a file with fixed shapes: the ways of the Omniglot recipes, with 5 shots.
WAYS = 20  # at least, if the head can have any number of classes
SHOTS = 5

CALIBRATION_BATCH = 32


class Room(NamedTuple):
    """Space for classes and for rows in a file with fixed shapes."""

    ways: int
    rows: int


def export_litert(graphs: Graphs, bundle: Path) -> None:
    """Write `litert/model.tflite` and `litert/model_static.tflite`.

    Args:
        graphs: Graphs made by `graphs.build_graphs`.
        bundle: Folder of the bundle.

    Raises:
        ValueError: A function needs an operation that is not built into LiteRT.
    """
    functions = {name: graphs.functions[name] for name in SIGNATURES}
    write_functions(functions, graphs.weights, bundle / layout.LITERT)
    columns = room_for_ways(graphs.head)
    static = fix_shapes(graphs, Room(columns, SHOTS * max(WAYS, columns)))
    write_functions(static, graphs.weights, bundle / layout.LITERT_STATIC)


def quantize_litert(bundle: Path, images: np.ndarray) -> None:
    """Write `litert/model_int8.tflite`: `model.tflite` with convolutions in 8-bit integers.

    Weights have one scale per channel, activations their range over the images.
    The head stays in float32.

    Args:
        bundle: Folder of the bundle, with `litert/model.tflite` in it.
        images: Training images `[n, H, W, C]`, in the bundle's image dtype.
    """
    batches = [
        {"image": images[start : start + CALIBRATION_BATCH]}
        for start in range(0, len(images), CALIBRATION_BATCH)
    ]
    quantizer = Quantizer(str(bundle / layout.LITERT))
    for operation in (TFLOperationName.CONV_2D, TFLOperationName.DEPTHWISE_CONV_2D):
        quantizer.add_static_config(".*", operation, activation_num_bits=8, weight_num_bits=8)
    (bundle / layout.LITERT_INT8).write_bytes(run_quantizer(quantizer, [batches]))


def run_quantizer(
    quantizer: Quantizer, calls: list[list[dict[str, np.ndarray]]], **known: dict[str, np.ndarray]
) -> bytes:
    """The quantized file.

    Args:
        quantizer: Quantizer with its configuration.
        calls: Inputs of `features`, which the ranges of activations are taken from. The ranges of
            one list are averaged; those of all lists are united.
        known: Ranges to use instead, by tensor.
    """
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        # It warns about its own calibration, and shows a bar for milliseconds of work.
        warnings.filterwarnings("ignore", ".*experimental_preserve_all_tensors", UserWarning)
        found = [quantizer.calibrate({"features": inputs}, num_threads=1) for inputs in calls]
        ranges = {
            name: {
                "min": np.min([one[name]["min"] for one in found], axis=0),
                "max": np.max([one[name]["max"] for one in found], axis=0),
            }
            for name in found[0]
        }
        quantized = quantizer.quantize(
            ranges | known, enable_progress_bar=False, enable_progress_report=False
        )
    return bytes(quantized.quantized_model)


def room_for_ways(head: InitialHead) -> int:
    """Number of classes for which a file with fixed shapes has space."""
    return max(WAYS, head.ways) if head.shared else head.bias.size


def adapt_used(
    features: tf.Tensor,
    labels: tf.Tensor,
    kernel: tf.Tensor,
    bias: tf.Tensor,
    learning_rate: tf.Tensor,
    steps: tf.Tensor,
) -> Tensors:
    """`closed_form.adapt` for a head with unused columns: a label that names one is padding too."""
    ways = tf.reduce_sum(tf.cast(tf.not_equal(bias, NO_CLASS_BIAS), tf.int32))
    labels = tf.where(labels < ways, labels, NO_CLASS_LABEL)
    return adapt(features, labels, kernel, bias, learning_rate, steps)


def fix_inputs(graphs: Graphs, name: str, room: Room) -> dict[str, TensorSpec]:
    """The inputs of a function with fixed sizes, for one image per call."""
    sizes: dict[int | str, int] = {
        "batch": 1,
        "rows": room.rows,
        "ways": room.ways,
        "features": graphs.head.kernel.shape[0],
    }
    return {
        key: tensor._replace(axes=tuple(sizes.get(axis, axis) for axis in tensor.axes))
        for key, tensor in graphs.signatures[name].inputs.items()
    }


def fix_shapes(graphs: Graphs, room: Room) -> dict[str, Any]:
    """The functions with fixed sizes."""
    columns = room.ways

    def initial_head(ways: tf.Tensor) -> Tensors:
        head = graphs.head.tensors(tf.constant(columns))
        used = tf.range(columns) < ways
        return {
            "kernel": tf.where(used, head["kernel"], 0.0),
            "bias": tf.where(used, head["bias"], NO_CLASS_BIAS),
        }

    def similarity_used(
        features: tf.Tensor,
        support_features: tf.Tensor,
        support_labels: tf.Tensor,
        ways: tf.Tensor,
    ) -> Tensors:
        labels = tf.where(support_labels < ways, support_labels, NO_CLASS_LABEL)
        return similarity(features, support_features, labels, tf.constant(columns))

    bodies: dict[str, Callable[..., Tensors]] = {
        name: graphs.functions[name].python_function for name in SIGNATURES
    }
    bodies |= {"initial_head": initial_head, "adapt": adapt_used, "similarity": similarity_used}
    return {
        name: tf.function(body, input_signature=specs(fix_inputs(graphs, name, room)))
        for name, body in bodies.items()
    }


def write_functions(
    functions: dict[str, Any], variables: Sequence[tf.Variable], path: Path
) -> None:
    """Convert functions to the signatures of one file, with built-in operations only.

    Args:
        functions: A `tf.function` with an input signature, by name.
        variables: Variables that they read and write.
        path: File to write; its folder is created.

    Raises:
        ValueError: A function needs an operation that is not built in.
    """
    content = convert_functions(functions, variables)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)


def convert_functions(functions: dict[str, Any], variables: Sequence[tf.Variable]) -> bytes:
    """The content of the file that `write_functions` writes.

    Raises:
        ValueError: A function needs an operation that is not built in.
    """
    module = tf.Module()
    module.variables_in_use = variables  # untracked variables would be missing from the file
    signatures = {name: function.get_concrete_function() for name, function in functions.items()}
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures=signatures)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=list(functions))
        # TensorFlow's own operations are allowed here so that the scan can name them.
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.TFLITE_BUILTINS,
            tf.lite.OpsSet.SELECT_TF_OPS,
        ]
        try:
            content = converter.convert()
        except ConverterError as error:
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(
                f"LiteRT cannot be written: {reason}. Change the backbone, or export without litert"
            ) from error
    content = replace_rsqrt(content)
    check_builtin(content)
    return content


def check_builtin(content: bytes) -> None:
    """Reject a model with an operation that some LiteRT runtimes lack.

    Raises:
        ValueError: An operation is custom, or one of TensorFlow's (Flex).
    """
    model = schema.ModelT.InitFromPackedBuf(content)
    custom = [code.customCode.decode() for code in model.operatorCodes if code.customCode]
    if custom:
        recurrent = any("TensorList" in name for name in custom)
        remedy = "Give recurrent layers unroll=True" if recurrent else "Change the backbone"
        raise ValueError(
            f"LiteRT has no built-in operation for {', '.join(custom)}. "
            f"{remedy}, or export without litert"
        )
