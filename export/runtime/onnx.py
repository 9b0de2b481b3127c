"""A bundle on ONNX Runtime. Needs neither TensorFlow nor Keras."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from anil_tf.export import layout
from anil_tf.export.manifest import Draft
from anil_tf.export.runtime.base import BundleRuntime
from anil_tf.export.signatures import Signature, TensorSpec


class OnnxRuntime(BundleRuntime):
    """A `Runtime` on the ONNX files of a bundle, on the CPU.

    Example:
        runtime = OnnxRuntime("bundle")
        support = runtime.features(support_images)
        head = runtime.initial_head(ways=5)
        adapted = runtime.adapt(
            support, labels, *head, learning_rate=runtime.inner_lr, steps=runtime.inner_steps
        )
        _, probabilities = runtime.predict(
            runtime.features(query_images), adapted.kernel, adapted.bias
        )
    """

    name = "onnx"
    graphs = layout.ONNX
    files = tuple(graphs.values())

    def __init__(self, bundle: str | Path | Draft) -> None:
        super().__init__(bundle)
        later = {name: f for name, f in layout.ONNX_SIMILARITY.items() if self.manifest.size(f)}
        graphs = self.graphs | later
        self.signatures = {name: self.signatures[name] for name in graphs}
        self._sessions = {name: self._open(name, file) for name, file in graphs.items()}

    def _open(self, signature: str, file: str) -> onnxruntime.InferenceSession:
        graph = (self.bundle / file).read_bytes()
        refuse_external_data(graph, file)
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        found = session.get_modelmeta().custom_metadata_map
        for key, value in self.manifest.metadata.items():
            if found.get(key) != value:
                raise ValueError(
                    f"{self.bundle}: the manifest does not fit {file}, which was made with "
                    f"{key} = {found.get(key)}. Received: {key} = {value}"
                )
        self.check_signature(
            signature, Signature(_describe(session.get_inputs()), _describe(session.get_outputs()))
        )
        return session

    def _run(self, signature: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        session = self._sessions[signature]
        names = [output.name for output in session.get_outputs()]
        try:
            outputs = session.run(names, inputs)
        except Exception as error:  # its exceptions have no common class
            raise ValueError(f"{signature} cannot be run on these inputs: {error}") from error
        return dict(zip(names, outputs, strict=True))


class OnnxInt8Runtime(OnnxRuntime):
    """`OnnxRuntime` with the backbone whose convolutions are in 8-bit integers."""

    name = "onnx_int8"
    precision = "int8"
    graphs = layout.ONNX | {"features": layout.ONNX_INT8}
    files = tuple(graphs.values())


def refuse_external_data(graph: bytes, file: str) -> None:
    """Reject an ONNX graph with weights in other files, whose paths could lead anywhere.

    Raises:
        ValueError: The graph refers to another file.
    """
    if b"location" not in graph:  # a tensor needs this key to name a file
        return
    import onnx
    from onnx.external_data_helper import _get_all_tensors, uses_external_data

    if any(uses_external_data(tensor) for tensor in _get_all_tensors(onnx.load_from_string(graph))):
        raise ValueError(f"{file} keeps weights in other files, which a bundle never does")


def _describe(values: list[Any]) -> dict[str, TensorSpec]:
    dtypes = {"tensor(float)": "float32", "tensor(int32)": "int32", "tensor(uint8)": "uint8"}
    return {
        value.name: TensorSpec(dtypes.get(value.type, value.type), tuple(value.shape))
        for value in values
    }
