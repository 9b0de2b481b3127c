"""1 / sqrt(x) in a LiteRT file, defined for zero too.

Keras's `UnitNormalization` computes `x * min(rsqrt(sum(x * x)), 1e12)`, which is zero for a zero
vector, such as the features of a black image may be. LiteRT's RSQRT (by XNNPACK) approximates, and
returns NaN for zero. SQRT and DIV are exact.
"""

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import Builder

FILE_IDENTIFIER = b"TFL3"

_Builtin = schema.BuiltinOperator


def replace_rsqrt(content: bytes) -> bytes:
    """The file with each RSQRT replaced by SQRT and DIV."""
    model = schema.ModelT.InitFromPackedBuf(content)
    found = {
        index
        for index, code in enumerate(model.operatorCodes)
        if max(code.builtinCode, code.deprecatedBuiltinCode) == _Builtin.RSQRT
    }
    if not found:
        return content
    sqrt, div = _add_code(model, _Builtin.SQRT), _add_code(model, _Builtin.DIV)
    one = schema.BufferT()
    one.data = np.frombuffer(np.float32(1).tobytes(), np.uint8)
    model.buffers.append(one)
    for graph in model.subgraphs:
        operators: list[Any] = []
        for operator in graph.operators:
            if operator.opcodeIndex in found:
                source = graph.tensors[operator.inputs[0]]
                name = graph.tensors[operator.outputs[0]].name  # the quantizer needs unique names
                root = _add_tensor(graph, name + b"/sqrt", source.shape, source.shapeSignature, 0)
                constant = _add_tensor(graph, name + b"/one", [], None, len(model.buffers) - 1)
                operators.append(_make_operator(sqrt, operator.inputs, [root]))
                operator = _make_operator(div, [constant, root], operator.outputs)
                operator.builtinOptionsType = schema.BuiltinOptions.DivOptions
                operator.builtinOptions = schema.DivOptionsT()
            operators.append(operator)
        graph.operators = operators
    return pack(model)


def pack(model: Any) -> bytes:
    """The content of a file of a model."""
    builder = Builder(0)
    builder.Finish(model.Pack(builder), FILE_IDENTIFIER)
    return bytes(builder.Output())


def _add_code(model: Any, builtin: int) -> int:
    """Adds an operation to those that the file uses; its index."""
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = builtin
    code.version = 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _add_tensor(graph: Any, name: bytes, shape: Any, signature: Any, buffer: int) -> int:
    """Adds a float32 tensor, its index. Buffer 0 has no data."""
    tensor = schema.TensorT()
    tensor.name, tensor.type, tensor.buffer = name, schema.TensorType.FLOAT32, buffer
    tensor.shape, tensor.shapeSignature = shape, signature
    tensor.hasRank = True
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _make_operator(code: int, inputs: Any, outputs: Any) -> Any:
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = code, inputs, outputs
    return operator
