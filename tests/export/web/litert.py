"""A bundle on LiteRT.js in headless Chromium."""

from typing import Any

from anil_tf.export import layout
from anil_tf.export.runtime.litert import Arrays, Function, LitertStaticRuntime
from tests.export.web.onnx import WebProcess, WebRuntime


class LitertWebChromiumRuntime(WebRuntime, LitertStaticRuntime):
    """A `Runtime` on the LiteRT file of fixed shapes: LiteRT.js (WebAssembly) in Chromium.

    LiteRT.js does not take the file of dynamic shapes: it refuses inputs and, worse, reads outputs
    of a dynamic size from the wrong memory.

    Raises:
        ImportError: Node, a package or Chromium is not installed, or does not start.
    """

    name = "litert_web_chromium"

    def _load(self, threads: int) -> dict[str, Function]:
        self._process = WebProcess(self.name, "litert", self.bundle, in_chromium=True)
        return {
            name: _WebFunction(self._process, name, function.get_input_details())
            for name, function in super()._load(threads).items()
        }


class _WebFunction:
    """A signature in the page; the shapes of its inputs are those that the file declares."""

    def __init__(self, process: WebProcess, name: str, inputs: dict[str, dict[str, Any]]) -> None:
        self._process, self._name, self._inputs = process, name, inputs

    def __call__(self, **inputs: Any) -> Arrays:
        return self._process.run(layout.LITERT_STATIC, self._name, inputs)

    def get_input_details(self) -> dict[str, dict[str, Any]]:
        return self._inputs
