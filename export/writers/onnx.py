"""The ONNX files of a bundle, one per function, each also in ONNX Runtime's own format."""

import errno
import inspect
import os
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import Fail

from anil_tf import acceptance
from anil_tf.datasets import pictures
from anil_tf.export import layout
from anil_tf.export.signatures import Signature, TensorSpec
from anil_tf.export.writers.graphs import Graphs
from anil_tf.export.writers.onnx_convert import OPSET, convert


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
    model = convert(graphs.functions[name])
    _declare(model.graph, name, graphs.signatures[name])
    _fix_shapes(model)
    onnx.helper.set_model_props(model, graphs.metadata)
    save(model, path)


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph as an ONNX file, check it, and write an `.ort` file beside it.

    Raises:
        ValueError: ONNX Runtime cannot run it.
    """
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
    prune(graph)


def prune(graph: onnx.GraphProto) -> None:
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
