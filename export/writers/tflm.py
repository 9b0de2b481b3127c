"""The files of a bundle for TensorFlow Lite Micro: one function each, with fixed shapes.

`features` computes in 8-bit integers up to its last convolution, and takes the pixels' bytes minus
128 as int8. The others compute in float32. Beside each file lies a C header with its bytes.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_quantizer.qtyping import TFLOperationName
from ai_edge_quantizer.quantizer import Quantizer

from anil_tf.closed_form import Tensors
from anil_tf.export import layout
from anil_tf.export.signatures import TensorSpec
from anil_tf.export.writers import tflm_functions
from anil_tf.export.writers.graphs import Graphs, specs
from anil_tf.export.writers.litert import (
    Room,
    convert_functions,
    fix_inputs,
    fix_shapes,
    run_quantizer,
)
from anil_tf.export.writers.litert_rsqrt import pack
from anil_tf.export.writers.tflm_header import write_header

CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def export_tflm(graphs: Graphs, bundle: Path, room: Room, images: np.ndarray) -> None:
    """Write a `.tflite` file and a header for each function, after running it once.

    Args:
        graphs: Graphs made by `graphs.build_graphs`.
        bundle: Folder of the bundle.
        room: Space for classes and for rows of a support set.
        images: Training images `[n, H, W, C]`, which the ranges of 8-bit integers are taken from.

    Raises:
        ImportError: `tflite-micro` is not installed.
        ValueError: A function needs an operator that TensorFlow Lite Micro lacks.
    """
    try:
        from anil_tf.export.runtime.tflm import MicroFunction
    except ModuleNotFoundError as error:
        raise ImportError("The target tflm needs: pip install 'anil-tf[tflm]'") from error
    (bundle / layout.TFLM["features"]).parent.mkdir()
    for name, function in _make_functions(graphs, room).items():
        content = convert_functions({name: function}, graphs.weights)
        if name == "features":
            content = _quantize(content, images)
        path = bundle / layout.TFLM[name]
        path.write_bytes(content)
        write_header(path, MicroFunction(name, content))


def _make_functions(graphs: Graphs, room: Room) -> dict[str, Any]:
    """The functions with fixed sizes; `features` takes float32 images until it is quantized."""

    def similarity(
        features: tf.Tensor,
        support_features: tf.Tensor,
        support_labels: tf.Tensor,
        ways: tf.Tensor,
    ) -> Tensors:
        return tflm_functions.similarity(
            features, support_features, support_labels, ways, room.ways
        )

    def make(body: Any, **changed: tuple[int | str, ...]) -> Any:
        inputs = fix_inputs(graphs, body.__name__, room)
        inputs |= {key: TensorSpec("float32", axes) for key, axes in changed.items()}
        return tf.function(body, input_signature=specs(inputs))

    image = fix_inputs(graphs, "features", room)["image"].axes
    rows = fix_inputs(graphs, "adapt", room)["features"].axes
    fixed = fix_shapes(graphs, room)
    return {
        "features": make(graphs.functions["features"].python_function, image=image),
        "initial_head": fixed["initial_head"],
        "adapt": make(tflm_functions.adapt, features=(1, 1, *rows)),
        "predict": fixed["predict"],
        "similarity": make(similarity),
    }


def _quantize(content: bytes, images: np.ndarray) -> bytes:
    """`features` in 8-bit integers up to its last convolution.

    What follows it, such as scaling to unit length, has too large a range for them.
    """
    graph, operations = _read_operations(content)
    convolutions = [i for i, name in enumerate(operations) if name in CONVOLUTIONS]
    until = max(convolutions, default=-1) + 1
    quantizer = Quantizer(content)
    options = {"activation_num_bits": 8, "weight_num_bits": 8}
    quantizer.add_static_config(".*", TFLOperationName.INPUT, **options)
    for operator, name in zip(graph.operators[:until], operations[:until], strict=True):
        if name in TFLOperationName.__members__:  # others stay in float32
            output = graph.tensors[operator.outputs[0]].name.decode()
            quantizer.add_static_config(f"^{re.escape(output)}", TFLOperationName[name], **options)
    known = {}
    if images.dtype == np.uint8:  # the range of bytes, whatever the images show
        ends = {"min": 0.0, "max": 255.0}
        pixels = graph.tensors[graph.inputs[0]]
        known[pixels.name.decode()] = {
            end: np.full([1] * len(pixels.shape), value) for end, value in ends.items()
        }
    calls = [[{"image": image[np.newaxis].astype(np.float32)}] for image in images]
    return _keep_inside(run_quantizer(quantizer, calls, **known))


def _keep_inside(content: bytes) -> bytes:
    """The file with all weights inside its FlatBuffer.

    The quantizer appends those of large models to it. TensorFlow Lite Micro does not look for them
    there, and computes with other numbers.
    """
    model = schema.ModelT.InitFromPackedBuf(content)
    outside = [buffer for buffer in model.buffers if buffer.offset > 1]
    for buffer in outside:
        buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
        buffer.offset = buffer.size = 0
    return pack(model) if outside else content


def _read_operations(content: bytes) -> tuple[Any, list[str]]:
    """The graph of a file, and the names of its operations."""
    names = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    model = schema.ModelT.InitFromPackedBuf(content)
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    graph = model.subgraphs[0]
    return graph, [names[codes[operator.opcodeIndex]] for operator in graph.operators]
