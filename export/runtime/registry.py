"""The list of runtimes: their code, the files that they read, and how to install them."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from anil_tf.export import layout
from anil_tf.export.manifest import Draft, Manifest

if TYPE_CHECKING:
    from anil_tf.export.runtime.base import BundleRuntime


class Entry(NamedTuple):
    """A runtime that `open_bundle` can open.

    Attributes:
        target: Its subclass of `BundleRuntime`, as `"module:class"`. The module is imported when
            the runtime is opened: running ONNX must not need TensorFlow, nor the other way round.
        files: Files and folders of a bundle that it reads, the `files` of that class.
        install: Command that installs what it needs.
    """

    target: str
    files: tuple[str, ...]
    install: str

    def missing(self, manifest: Manifest) -> list[str]:
        """The files that a bundle lacks."""
        return [file for file in self.files if not manifest.size(file)]


# Further runtimes can be added: `open_bundle` and `verify_bundle` then know them.
RUNTIMES: dict[str, Entry] = {
    "saved_model": Entry(
        "anil_tf.export.runtime.saved_model:SavedModelRuntime",
        (layout.SAVED_MODEL,),
        "pip install tensorflow",
    ),
    "onnx": Entry(
        "anil_tf.export.runtime.onnx:OnnxRuntime",
        tuple(layout.ONNX.values()),
        "pip install onnxruntime",
    ),
    "onnx_int8": Entry(
        "anil_tf.export.runtime.onnx:OnnxInt8Runtime",
        tuple((layout.ONNX | {"features": layout.ONNX_INT8}).values()),
        "pip install onnxruntime",
    ),
    "litert": Entry(
        "anil_tf.export.runtime.litert:LitertRuntime",
        (layout.LITERT,),
        "pip install ai-edge-litert",
    ),
    "litert_static": Entry(
        "anil_tf.export.runtime.litert:LitertStaticRuntime",
        (layout.LITERT_STATIC,),
        "pip install ai-edge-litert",
    ),
    "litert_compiled": Entry(
        "anil_tf.export.runtime.litert:LitertCompiledRuntime",
        (layout.LITERT_STATIC,),
        "pip install ai-edge-litert",
    ),
    "litert_int8": Entry(
        "anil_tf.export.runtime.litert:LitertInt8Runtime",
        (layout.LITERT_INT8,),
        "pip install ai-edge-litert",
    ),
    "tflm": Entry(
        "anil_tf.export.runtime.tflm:TflmRuntime",
        tuple(layout.TFLM.values()),
        "pip install 'anil-tf[tflm]'",
    ),
}


def open_bundle(bundle: str | Path | Draft, runtime: str = "onnx") -> "BundleRuntime":
    """Open a bundle with one of its runtimes.

    Args:
        bundle: Folder of the bundle.
        runtime: A name of `RUNTIMES`: `"onnx"` (ONNX Runtime, without TensorFlow), `"saved_model"`
            (a TensorFlow session, as TensorFlow Serving loads it), `"litert"`, ...

    Raises:
        ImportError: The runtime is not installed.
        FileNotFoundError: The folder is not a bundle.
        ValueError: The runtime is unknown, or the bundle is damaged or lacks what it runs.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime must be one of {sorted(RUNTIMES)}. Received: {runtime!r}")
    entry = RUNTIMES[runtime]
    module, name = entry.target.split(":")
    try:
        opened = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise ImportError(f"The {runtime} runtime needs: {entry.install}") from error
    return opened(bundle)
