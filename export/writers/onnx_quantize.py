"""The ONNX backbone in 8-bit integers, quantized by ONNX Runtime."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from anil_tf.export import layout
from anil_tf.export.writers.onnx import prune, save

CALIBRATION_BATCH = 16
QUANTIZED = ["Conv", "Relu", "LeakyRelu", "MaxPool", "Add"]


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
    save(model, bundle / layout.ONNX_INT8)


def _is_depthwise(node: onnx.NodeProto) -> bool:
    """Whether a node is a convolution of each channel by itself, or of groups of channels."""
    groups = [attribute.i for attribute in node.attribute if attribute.name == "group"]
    return node.op_type == "Conv" and groups > [1]


def _leave_output_float(graph: onnx.GraphProto) -> None:
    """Remove the quantization of the last convolution's output."""
    last = [node for node in graph.node if node.op_type == "Conv"][-1]
    (quantize,) = (node for node in graph.node if last.output[0] in node.input)
    (dequantize,) = (node for node in graph.node if quantize.output[0] in node.input)
    last.output[0] = dequantize.output[0]
    graph.node.remove(quantize)
    graph.node.remove(dequantize)
    prune(graph)


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
