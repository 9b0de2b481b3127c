"""The ONNX files of a bundle, one a function."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tf2onnx

from anil_tf.export import layout
from anil_tf.export.graphs import Graphs
from anil_tf.export.signatures import Signature, Tensor

OPSET = 17


def export_onnx(graphs: Graphs, bundle: Path) -> None:
    """Write `onnx/{backbone,initial_head,adapt,predict}.onnx`.

    Args:
        graphs: From `graphs.build_graphs`.
        bundle: Folder of the bundle.

    Raises:
        onnx.checker.ValidationError: The converter made an invalid graph.
    """
    for name, file in layout.ONNX.items():
        function = graphs.functions[name]
        model, _ = tf2onnx.convert.from_function(
            function,
            function.input_signature,
            opset=OPSET,
            custom_op_handlers={"SelectV2": (_select_to_where, [])},
        )
        _declare(model.graph, name, graphs.signatures[name])
        path = bundle / file
        path.parent.mkdir(exist_ok=True)
        onnx.save(model, path)
        # The converter can return an invalid graph without an error.
        onnx.checker.check_model(str(path), full_check=True)


def _select_to_where(context: Any, node: Any, name: str, arguments: Any) -> None:
    """Convert a choice to ONNX's Where; tf2onnx multiplies by 0 and 1, and 0 * NaN is NaN."""
    node.type = "Where"


def _declare(graph: onnx.GraphProto, name: str, signature: Signature) -> None:
    """Give a graph its name, and its inputs and outputs their declared order, types and axes."""
    graph.name = name
    for values, declared in ((graph.input, signature.inputs), (graph.output, signature.outputs)):
        del values[:]
        values.extend(_describe(name, tensor) for name, tensor in declared.items())
    # Shapes in between, whose dynamic axes the converter names at random; runtimes infer them.
    del graph.value_info[:]


def _describe(name: str, tensor: Tensor) -> onnx.ValueInfoProto:
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
    return onnx.helper.make_tensor_value_info(name, element, tensor.axes)
