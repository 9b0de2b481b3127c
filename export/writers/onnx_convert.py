"""From a TensorFlow function to an ONNX graph: tf2onnx, and what it lacks."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from tf2onnx.constants import ENV_TF2ONNX_CATCH_ERRORS
from tf2onnx.graph import Node

OPSET = 17
# The converter logs what `_check_operations` raises.
logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)


def convert(function: Any) -> onnx.ModelProto:
    """The ONNX graph of a `tf.function`.

    Raises:
        ValueError: It uses an operation that ONNX lacks.
    """
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
