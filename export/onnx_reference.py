"""A bundle's `adapt.onnx` on the reference implementation of ONNX.

Plain Python and NumPy, written by the authors of the standard: an opinion on what the file means
that no inference engine has a part in.
"""

from pathlib import Path

import numpy as np
from onnx.reference import ReferenceEvaluator

from anil_tf.export import layout
from anil_tf.export.runtime import BundleRuntime


class OnnxReferenceRuntime(BundleRuntime):
    """Runs `adapt` alone; it is slow, and `features` would take minutes."""

    name = "onnx_reference"

    def __init__(self, bundle: str | Path) -> None:
        super().__init__(bundle)
        self.signatures = {"adapt": self.signatures["adapt"]}
        self._evaluator = ReferenceEvaluator(str(self.bundle / layout.ONNX["adapt"]))

    def _run(self, signature: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = self._evaluator.run(None, inputs)
        return dict(zip(self._evaluator.output_names, outputs, strict=True))
