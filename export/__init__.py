"""From a trained run to a bundle that runs: SavedModel, ONNX and LiteRT, verified.

A bundle is a folder. `bundle.export_bundle` writes it, `Predictor` learns and predicts with it,
`runtime.open_bundle` runs it, `verify` compares every runtime in it with a float64 reference.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anil_tf.export.predictor import Predictor as Predictor

__all__ = ["Predictor"]


def __getattr__(name: str) -> Any:
    if name == "Predictor":  # imported when it is used: the command line's help needs no runtime
        from anil_tf.export.predictor import Predictor

        return Predictor
    raise AttributeError(f"module 'anil_tf.export' has no attribute {name!r}")
