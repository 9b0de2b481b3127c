"""A bundle's `adapt.onnx` on the reference implementation of ONNX.

Plain Python and NumPy, written by the authors of the standard: an opinion on what the file means
that no inference engine has a part in.
"""

from pathlib import Path

import numpy as np
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from anil_tf.export import layout
from anil_tf.export.manifest import Draft
from anil_tf.export.runtime.base import BundleRuntime


class LogSoftmax(OpRun):
    """The package's own takes the logarithm of a softmax, which is minus infinity where it is 0."""

    op_domain = ""

    def _run(self, logits: np.ndarray, axis: int) -> tuple[np.ndarray]:
        shifted = logits - logits.max(axis=axis, keepdims=True)
        return (shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True)),)


class OnnxReferenceRuntime(BundleRuntime):
    """Runs `adapt` alone; it is slow, and `features` would take minutes."""

    name = "onnx_reference"
    files = (layout.ONNX["adapt"],)

    def __init__(self, bundle: str | Path | Draft) -> None:
        super().__init__(bundle)
        self.signatures = {"adapt": self.signatures["adapt"]}
        self._evaluator = ReferenceEvaluator(
            str(self.bundle / layout.ONNX["adapt"]), new_ops=[LogSoftmax]
        )

    def _run(self, signature: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = self._evaluator.run(None, inputs)
        return dict(zip(self._evaluator.output_names, outputs, strict=True))
