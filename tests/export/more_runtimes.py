"""Runtimes that only the tests have: a browser's, Node's, and the reference implementation of ONNX.

They are opened and verified as the runtimes of the package are, once they are in its registry.
"""

from anil_tf.export import layout
from anil_tf.export.runtime import Entry

ONNX = tuple(layout.ONNX.values())

MORE_RUNTIMES = {
    "onnx_reference": Entry(
        "tests.export.runtime.onnx_reference:OnnxReferenceRuntime",
        (layout.ONNX["adapt"],),
        "pip install onnx",
    ),
    "onnx_web_node": Entry("tests.export.web.onnx:OnnxWebNodeRuntime", ONNX, "make web"),
    "onnx_web_chromium": Entry("tests.export.web.onnx:OnnxWebChromiumRuntime", ONNX, "make web"),
    "litert_web_chromium": Entry(
        "tests.export.web.litert:LitertWebChromiumRuntime", (layout.LITERT_STATIC,), "make web"
    ),
}
