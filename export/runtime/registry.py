"""Which runtimes there are: where their code is, what of a bundle they run, how to get them."""

from typing import NamedTuple

from anil_tf.export import layout
from anil_tf.export.manifest import Manifest


class Entry(NamedTuple):
    """A runtime: where its class is (`module:class`), what of a bundle it runs, how to get it.

    One that is not `in_process` starts other programs, and is left to `anil verify`.
    """

    target: str
    files: tuple[str, ...]
    install: str
    in_process: bool = True

    def missing(self, manifest: Manifest) -> list[str]:
        """What of it a bundle lacks."""
        return [file for file in self.files if not manifest.size(file)]


# Imported when asked for: running ONNX must not need TensorFlow, nor the other way round.
RUNTIMES = {
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
        (
            layout.ONNX_INT8,
            layout.ONNX["initial_head"],
            layout.ONNX["adapt"],
            layout.ONNX["predict"],
        ),
        "pip install onnxruntime",
    ),
    "onnx_reference": Entry(
        "anil_tf.export.runtime.onnx_reference:OnnxReferenceRuntime",
        (layout.ONNX["adapt"],),
        "pip install onnx",
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
    "onnx_web_node": Entry(
        "anil_tf.export.runtime.web:OnnxWebNodeRuntime",
        tuple(layout.ONNX.values()),
        "npm install onnxruntime-web",
        in_process=False,
    ),
    "onnx_web_chromium": Entry(
        "anil_tf.export.runtime.web:OnnxWebChromiumRuntime",
        tuple(layout.ONNX.values()),
        "npm install onnxruntime-web playwright-core, and Chromium",
        in_process=False,
    ),
    "litert_web_chromium": Entry(
        "anil_tf.export.runtime.web_litert:LitertWebChromiumRuntime",
        (layout.LITERT_STATIC,),
        "npm install @litertjs/core playwright-core, and Chromium",
        in_process=False,
    ),
}
