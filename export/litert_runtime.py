"""A bundle on LiteRT. Needs neither TensorFlow nor Keras."""

from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from anil_tf.export.runtime import RUNTIMES, BundleRuntime


class LitertRuntime(BundleRuntime):
    """A `Runtime` on LiteRT's interpreter, on the CPU; sizes are as free as in ONNX.

    Args:
        bundle: Folder of the bundle.
        threads: Of the interpreter. A head is too small to gain by more than one.
    """

    name = "litert"

    def __init__(self, bundle: str | Path, threads: int = 1) -> None:
        super().__init__(bundle)
        file = self.bundle / RUNTIMES[self.name].file
        self._interpreter = Interpreter(str(file), num_threads=threads)
        names = self._interpreter.get_signature_list()
        self._runners = {name: self._interpreter.get_signature_runner(name) for name in names}
        self.signatures = {name: self.signatures[name] for name in names}

    def _run(self, signature: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self._runners[signature](**inputs)
