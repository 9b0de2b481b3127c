"""The ONNX files of a bundle, one per function, each also in ONNX Runtime's own format."""

import errno
import inspect
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import tensorflow as tf
import tf2onnx
from onnxruntime.capi.onnxruntime_pybind11_state import Fail
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from tf2onnx.constants import ENV_TF2ONNX_CATCH_ERRORS
from tf2onnx.graph import Node

from anil_tf import acceptance
from anil_tf.datasets import pictures
from anil_tf.export import layout
from anil_tf.export.signatures import Signature, TensorSpec
from anil_tf.export.writers.graphs import Graphs

OPSET = 17
CALIBRATION_BATCH = 16
# The converter logs what `_check_operations` raises.
logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
QUANTIZED = ["Conv", "Relu", "LeakyRelu", "MaxPool", "Add"]


def export_onnx(graphs: Graphs, bundle: Path) -> None:
    """Write the files of `onnx/`, one per function, the same as `.ort`, and `adapt.py`.

    Args:
        graphs: Graphs made by `graphs.build_graphs`.
        bundle: Folder of the bundle.

    Raises:
        ValueError: A layer of the backbone uses an operation that ONNX or ONNX Runtime lacks.
    """
    for name, file in (layout.ONNX | layout.ONNX_SIMILARITY).items():
        export_function(graphs, name, bundle / file)
    (bundle / layout.ADAPT_SCRIPT).write_text(_adapt_script(), encoding="utf-8")


def _adapt_script() -> str:
    """The text of `adapt.py`: the script, with the modules that it imports inserted."""
    script = Path(__file__).with_name("adapt_script.py").read_text(encoding="utf-8")
    for module in (acceptance, pictures):
        source = inspect.getsource(module).replace("\\", r"\\")  # not an escape of the pattern
        line = rf"^from {re.escape(module.__name__)} import .*\n"
        script, found = re.subn(line, source, script, flags=re.MULTILINE)
        if found != 1:
            name = module.__name__
            raise RuntimeError(f"adapt_script.py must import from {name} once. Received: {found}")
    return script


def export_function(graphs: Graphs, name: str, path: Path) -> None:
    """Write one signature as an ONNX file, and as an `.ort` file beside it.

    Raises:
        ValueError: It uses an operation that ONNX or ONNX Runtime lacks.
    """
    model = _convert(graphs.functions[name])
    _declare(model.graph, name, graphs.signatures[name])
    _fix_shapes(model)
    onnx.helper.set_model_props(model, graphs.metadata)
    _save(model, path)


def _convert(function: Any) -> onnx.ModelProto:
    """The ONNX graph of a `tf.function`."""
    # Traced anew with nested functions inlined: Keras compiles some convolutions by XLA, which the
    # converter leaves as calls.
    inlined = tf.function(function.python_function, input_signature=function.input_signature)
    eagerly = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        traced = inlined.get_concrete_function()
    finally:
        tf.config.run_functions_eagerly(eagerly)
    try:
        with _few_copies():
            model = _from_function(inlined)
    except Exception:  # an optimizer failed: with copies, the converter goes back and skips it
        model = _from_function(inlined)
    # A constant tensor that a layer keeps, such as the mean of `Normalization`, is captured by the
    # trace, and the converter makes an input of it.
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(outer.numpy(), inner.name)
        for outer, inner in traced.graph.captures
        if outer.dtype != tf.resource
    )
    _check_operations(model.graph)
    return model


def _from_function(function: Any) -> onnx.ModelProto:
    model, _ = tf2onnx.convert.from_function(
        function,
        function.input_signature,
        opset=OPSET,
        custom_op_handlers={
            "SelectV2": (_select_to_where, []),
            "Erfc": (_erfc, []),
            "Expm1": (_expm1, []),
        },
    )
    return model


@contextmanager
def _few_copies() -> Iterator[None]:
    """Keeps the converter from copying all weights before and after each of 24 optimizers.

    Before: it copies the graph, for the case that the optimizer fails. After: it writes every node
    to protocol buffers, whose memory is not freed. It never reads those of constants.
    """

    def update(node: Node, *storage: Any) -> None:
        if not node.is_const():
            update_proto(node, *storage)

    update_proto, caught = Node.update_proto, os.environ.get(ENV_TF2ONNX_CATCH_ERRORS)
    Node.update_proto, os.environ[ENV_TF2ONNX_CATCH_ERRORS] = update, "FALSE"
    try:
        yield
    finally:
        Node.update_proto = update_proto
        if caught is None:
            del os.environ[ENV_TF2ONNX_CATCH_ERRORS]
        else:
            os.environ[ENV_TF2ONNX_CATCH_ERRORS] = caught


def _check_operations(graph: onnx.GraphProto) -> None:
    """Rejects a graph with an operation that ONNX does not have.

    Raises:
        ValueError: There is such an operation. The message names the layer.
    """
    for node in graph.node:
        if not onnx.defs.has(node.op_type, OPSET, node.domain):
            raise ValueError(
                f"ONNX has no operation for TensorFlow's {node.op_type}, which the backbone uses "
                f"in {node.name.rpartition('/')[0] or node.name}. Change that layer, or export "
                "without onnx"
            )
        for attribute in node.attribute:  # the bodies of loops
            _check_operations(attribute.g)


def _is_depthwise(node: onnx.NodeProto) -> bool:
    """Whether a node is a convolution of each channel by itself, or of groups of channels."""
    groups = [attribute.i for attribute in node.attribute if attribute.name == "group"]
    return node.op_type == "Conv" and groups > [1]


def quantize_onnx(bundle: Path, images: np.ndarray) -> None:
    """Write `onnx/backbone_int8.onnx`: `backbone.onnx` with its convolutions in 8-bit integers.

    Static quantization in the QDQ format, with one scale per channel of weights and one per tensor
    of activations. Weights have 7 bits, so the 16-bit sums of no processor overflow and the results
    are the same on all of them. Three parts stay in floats: the first convolution (unless it is the
    only one) and the depthwise ones, whose few weights cause more than half of the error and save
    no space, and the output of the last one, which becomes the features.

    Args:
        bundle: Folder of the bundle, with the float files written.
        images: Training images `[n, H, W, C]` in the bundle's dtype, for the ranges of activations.

    Raises:
        ValueError: The backbone has no convolution.
    """
    source = bundle / layout.ONNX["features"]
    original = onnx.load(source)
    with tempfile.TemporaryDirectory() as scratch:
        prepared, quantized = Path(scratch) / "prepared.onnx", Path(scratch) / "quantized.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        nodes = onnx.load(prepared).graph.node
        convolutions = [index for index, node in enumerate(nodes) if node.op_type == "Conv"]
        if not convolutions:
            raise ValueError(
                "int8 is for convolutions, and this backbone has none: export without it"
            )
        first, last = convolutions[:2][-1], convolutions[-1]
        in_floats = [*nodes[:first], *filter(_is_depthwise, nodes), *nodes[last + 1 :]]
        quantize_static(
            prepared,
            quantized,
            _Calibration(images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=QUANTIZED,
            nodes_to_exclude=[node.name for node in in_floats],
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=True,
            per_channel=True,
        )
        model = onnx.load(quantized)
    _leave_output_float(model.graph)
    del model.graph.value_info[:]
    metadata = {entry.key: entry.value for entry in original.metadata_props}
    onnx.helper.set_model_props(model, {**metadata, "precision": "int8"})
    _save(model, bundle / layout.ONNX_INT8)


def _leave_output_float(graph: onnx.GraphProto) -> None:
    """Remove the quantization of the last convolution's output."""
    last = [node for node in graph.node if node.op_type == "Conv"][-1]
    (quantize,) = (node for node in graph.node if last.output[0] in node.input)
    (dequantize,) = (node for node in graph.node if quantize.output[0] in node.input)
    last.output[0] = dequantize.output[0]
    graph.node.remove(quantize)
    graph.node.remove(dequantize)
    _prune(graph)


class _Calibration(CalibrationDataReader):
    """Feeds images to the calibration, a few at a time."""

    def __init__(self, images: np.ndarray) -> None:
        starts = range(0, len(images), CALIBRATION_BATCH)
        self._batches: Iterator[np.ndarray] = (
            images[start : start + CALIBRATION_BATCH] for start in starts
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next inputs; none at the end."""
        batch = next(self._batches, None)
        return None if batch is None else {"image": batch}


def _save(model: onnx.ModelProto, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    del model.opset_import[:]  # the tools add domains that are not used
    model.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    onnx.save(model, path)
    # The converter can return an invalid graph without an error.
    onnx.checker.check_model(str(path), full_check=True)
    _save_as_ort(path)


def _save_as_ort(path: Path) -> None:
    """Write an ONNX file also in ONNX Runtime's format, which its smallest builds read.

    As `onnxruntime.tools.convert_onnx_models_to_ort` does, which also leaves a list of operators.
    """
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path.with_suffix(".ort"))
    options.add_session_config_entry("session.save_model_format", "ORT")
    try:
        onnxruntime.InferenceSession(
            str(path),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=["NchwcTransformer"],  # its layouts are those of one processor
        )
    except Fail as error:  # its error for a full disk, among others
        if shutil.disk_usage(path.parent).free > path.stat().st_size:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"ONNX Runtime cannot run the exported {path.stem}: {reason}. "
                "Change the backbone, or export without onnx"
            ) from error
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error


def _select_to_where(context: Any, node: Any, name: str, arguments: Any) -> None:
    """Convert a choice to ONNX's Where; tf2onnx multiplies by 0 and 1, and 0 * NaN is NaN."""
    node.type = "Where"


def _erfc(context: Any, node: Any, name: str, arguments: Any) -> None:
    """Convert erfc(x), of the exact GELU, to 1 - erf(x)."""
    erf = context.insert_new_node_on_input(node, "Erf", node.input[0])
    one = context.make_const(f"{name}_one", np.array(1, np.float32))
    node.type = "Sub"
    context.replace_inputs(node, [one.output[0], erf.output[0]])


def _expm1(context: Any, node: Any, name: str, arguments: Any) -> None:
    """Convert expm1(x), of CELU, to exp(x) - 1."""
    exp = context.insert_new_node_on_input(node, "Exp", node.input[0])
    one = context.make_const(f"{name}_one", np.array(1, np.float32))
    node.type = "Sub"
    context.replace_inputs(node, [exp.output[0], one.output[0]])


def _declare(graph: onnx.GraphProto, name: str, signature: Signature) -> None:
    """Give a graph its name, and its inputs and outputs their declared order, types and axes."""
    graph.name = name
    for values, declared in ((graph.input, signature.inputs), (graph.output, signature.outputs)):
        del values[:]
        values.extend(_describe(name, tensor) for name, tensor in declared.items())
    # Intermediate shapes have random names of dynamic axes; runtimes infer them.
    del graph.value_info[:]


def _fix_shapes(model: onnx.ModelProto) -> None:
    """Give every Reshape with one variable size a constant shape, which accelerators need.

    Keras computes the shape from the number of images.
    """
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {
        value.name: [axis.dim_value or -1 for axis in value.type.tensor_type.shape.dim]
        for value in [*inferred.value_info, *inferred.output]
    }
    graph = model.graph
    constants = {constant.name for constant in graph.initializer}
    for node in graph.node:
        shape = shapes.get(node.output[0], [])
        if node.op_type == "Reshape" and node.input[1] not in constants and shape.count(-1) == 1:
            node.input[1] = f"{node.output[0]}_shape"
            graph.initializer.append(onnx.numpy_helper.from_array(np.array(shape), node.input[1]))
    _prune(graph)


def _prune(graph: onnx.GraphProto) -> None:
    """Drop the nodes and constants that nothing uses."""
    needed = {value.name for value in graph.output}
    for node in reversed(list(graph.node)):
        if needed.intersection(node.output):
            needed.update(node.input)
            needed.update(name for part in node.attribute for name in _outer_names(part.g))
        else:
            graph.node.remove(node)
    for constant in list(graph.initializer):
        if constant.name not in needed:
            graph.initializer.remove(constant)


def _outer_names(graph: onnx.GraphProto) -> set[str]:
    """Names that the body of a loop may use from outside: all that it reads or returns."""
    return {name for node in graph.node for name in node.input} | {v.name for v in graph.output}


def _describe(name: str, tensor: TensorSpec) -> onnx.ValueInfoProto:
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
    return onnx.helper.make_tensor_value_info(name, element, tensor.axes)
