"""A bundle on ONNX Runtime. Needs neither TensorFlow nor Keras."""

from pathlib import Path

import numpy as np
import onnxruntime

from anil_tf.export import layout
from anil_tf.export.runtime import BundleRuntime


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

    def __init__(self, bundle: str | Path) -> None:
        super().__init__(bundle)
        self.signatures = {name: self.signatures[name] for name in layout.ONNX}
        self._sessions = {
            signature: onnxruntime.InferenceSession(
                str(self.bundle / file), providers=["CPUExecutionProvider"]
            )
            for signature, file in layout.ONNX.items()
        }

    def _run(self, signature: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        session = self._sessions[signature]
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, inputs), strict=True))
