"""A bundle on onnxruntime-web, in Node and in headless Chromium.

The packages of npm are found as Node finds them from `examples/browser`: in `node_modules` there or
in a folder above, or on `NODE_PATH`.
"""

import base64
import json
import shutil
import statistics
import subprocess
import tempfile
import threading
import weakref
from pathlib import Path
from typing import IO, Any

import numpy as np

from anil_tf.export import layout
from anil_tf.export.runtime.base import BundleRuntime
from anil_tf.export.signatures import bind

Arrays = dict[str, np.ndarray]

TIMEOUT = 120.0  # seconds for an answer; the first of a file loads and compiles it

_RUNNER = Path(__file__).parent / "runner.mjs"
_PACKAGES = Path(__file__).resolve().parents[3] / "examples" / "browser"
_CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class WebProcess:
    """Node running a JavaScript engine, by itself or in a page; it ends with this object.

    Args:
        runtime: Name of the runtime, for errors.
        engine: `"onnx"` (onnxruntime-web) or `"litert"` (LiteRT.js, in Chromium alone).
        bundle: Folder of the bundle, whose files are all that the process reads.
        in_chromium: Run in a page of headless Chromium, not in Node.

    Attributes:
        milliseconds: What all runs took so far, by the engine's clock.

    Raises:
        ImportError: Node, Chromium or a package is not installed, or does not start.
    """

    def __init__(self, runtime: str, engine: str, bundle: Path, in_chromium: bool) -> None:
        self.milliseconds = 0.0
        self._runtime = runtime
        try:
            self._start(engine, bundle, in_chromium)
        except OSError as error:
            raise ImportError(f"{runtime} cannot run here: {error}") from error

    def _start(self, engine: str, bundle: Path, in_chromium: bool) -> None:
        configuration = {
            "engine": engine,
            "bundle": str(bundle.resolve()),
            "packages": str(_PACKAGES),
            "chromium": _find(*_CHROMIUM) if in_chromium else None,
        }
        node = _find("node")
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [node, str(_RUNNER), json.dumps(configuration)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            encoding="utf-8",
        )
        self.close = weakref.finalize(self, _close, self._process, self._errors)
        try:
            self._receive()
        except OSError:
            self.close()
            raise

    def run(self, file: str, signature: str, inputs: Arrays) -> Arrays:
        """Run a signature that a file of the bundle holds; the outputs by name.

        Raises:
            ChildProcessError: The engine failed, or the process ended.
            TimeoutError: There was no answer in `TIMEOUT` seconds; the process is ended.
        """
        tensors = {name: _encode(array) for name, array in inputs.items()}
        answer = self._receive({"file": file, "signature": signature, "inputs": tensors})
        self.milliseconds += answer["milliseconds"]
        return {name: _decode(tensor) for name, tensor in answer["outputs"].items()}

    def _receive(self, request: dict[str, Any] | None = None) -> dict[str, Any]:
        """The next line of the process, after sending it one."""
        late = threading.Event()
        # The end of the process is the end of the waiting below.
        alarm = threading.Timer(TIMEOUT, _end, [self._process, late])
        alarm.start()
        try:
            line = _exchange(self._process, request)
        finally:
            alarm.cancel()
        if late.is_set():
            raise TimeoutError(f"{self._runtime} gave no answer within {TIMEOUT:g} seconds")
        if not line:
            self._errors.seek(0)
            last = self._errors.read().decode(errors="replace").strip().splitlines()[-1:]
            raise ChildProcessError(": ".join([f"The process of {self._runtime} ended", *last]))
        answer = json.loads(line)
        if "error" in answer:
            raise ChildProcessError(f"{self._runtime}: {answer['error']}")
        return answer


class WebRuntime(BundleRuntime):
    """A `Runtime` in a `WebProcess`; `milliseconds` is by the clock of the engine."""

    _process: WebProcess

    def milliseconds(self, signature: str, calls: int = 20, **inputs: Any) -> float:
        """Median time of a call of a signature, after a first that does not count."""
        arrays = bind(self.signatures[signature], inputs)
        times = []
        for _ in range(calls + 1):
            before = self._process.milliseconds
            self._run(signature, arrays)
            times.append(self._process.milliseconds - before)
        return statistics.median(times[1:])


class OnnxWebNodeRuntime(WebRuntime):
    """A `Runtime` on a bundle's ONNX files: onnxruntime-web (WebAssembly) in Node.

    Raises:
        ImportError: Node or onnxruntime-web is not installed, or does not start.
    """

    name = "onnx_web_node"
    graphs = layout.ONNX | layout.ONNX_SIMILARITY
    files = tuple(layout.ONNX.values())
    in_chromium = False

    def __init__(self, bundle: str | Path) -> None:
        super().__init__(bundle)
        self.signatures = {name: self.signatures[name] for name in self.graphs}
        self._process = WebProcess(self.name, "onnx", self.bundle, self.in_chromium)

    def _run(self, signature: str, inputs: Arrays) -> Arrays:
        return self._process.run(self.graphs[signature], signature, inputs)


class OnnxWebChromiumRuntime(OnnxWebNodeRuntime):
    """A `Runtime` on a bundle's ONNX files: onnxruntime-web in a page of headless Chromium.

    Raises:
        ImportError: Node, a package or Chromium is not installed, or does not start.
    """

    name = "onnx_web_chromium"
    in_chromium = True


def _find(*programs: str) -> str:
    for program in programs:
        if path := shutil.which(program):
            return path
    raise FileNotFoundError(f"There is no program `{programs[0]}`")


def _exchange(process: subprocess.Popen[str], request: dict[str, Any] | None) -> str:
    """Send a line, if any, and wait for one; an empty one if the process has ended."""
    if process.stdin is None or process.stdout is None:
        raise ValueError("the process has no pipes")
    try:
        if request is not None:
            process.stdin.write(f"{json.dumps(request)}\n")
            process.stdin.flush()
        return process.stdout.readline()
    except BrokenPipeError:
        return ""


def _end(process: subprocess.Popen[str], late: threading.Event) -> None:
    late.set()
    process.kill()


def _close(process: subprocess.Popen[str], errors: IO[bytes]) -> None:
    """End the process, which ends its browser: it stops when its input does."""
    try:
        process.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
    errors.close()


def _encode(array: np.ndarray) -> dict[str, Any]:
    data = base64.b64encode(array.tobytes()).decode("ascii")
    return {"dtype": array.dtype.name, "shape": array.shape, "data": data}


def _decode(tensor: dict[str, Any]) -> np.ndarray:
    data = base64.b64decode(tensor["data"])
    return np.frombuffer(data, tensor["dtype"]).reshape(tensor["shape"])
