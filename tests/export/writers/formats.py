"""Exports the features of a backbone to one format, and runs them there."""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import onnxruntime
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from anil_tf.export.signatures import declare
from anil_tf.export.verify.cases import BOUND, LAST_BIT_SLACK
from anil_tf.export.writers import onnx as onnx_writer
from anil_tf.export.writers.graphs import Graphs, InitialHead, build_graphs
from anil_tf.export.writers.litert import write_functions
from anil_tf.export.writers.precision import check_copies, with_precision


def run_saved_model(graphs: Graphs, images: np.ndarray, folder: Path) -> np.ndarray:
    """Features `[n, D]` of a SavedModel."""
    module = tf.Module()
    module.weights = graphs.weights
    features = graphs.functions["features"].get_concrete_function()
    tf.saved_model.save(module, str(folder / "saved_model"), signatures={"features": features})
    loaded = tf.saved_model.load(str(folder / "saved_model"))
    return loaded.signatures["features"](image=tf.constant(images))["features"].numpy()


def run_onnx(graphs: Graphs, images: np.ndarray, folder: Path) -> np.ndarray:
    """Features `[n, D]` of ONNX Runtime."""
    path = folder / "backbone.onnx"
    onnx_writer.export_function(graphs, "features", path)
    return onnxruntime.InferenceSession(path).run(None, {"image": images})[0]


def run_litert(graphs: Graphs, images: np.ndarray, folder: Path) -> np.ndarray:
    """Features `[n, D]` of LiteRT."""
    path = folder / "features.tflite"
    write_functions({"features": graphs.functions["features"]}, graphs.weights, path)
    return Interpreter(str(path)).get_signature_runner("features")(image=images)["features"]


RUNS: dict[str, Callable[[Graphs, np.ndarray, Path], np.ndarray]] = {
    "saved_model": run_saved_model,
    "onnx": run_onnx,
    "litert": run_litert,
}


def prepare(backbone: keras.Model, images: np.ndarray) -> tuple[Graphs, float]:
    """The graphs of a backbone as `export_bundle` makes them, and the bound on their features.

    Raises:
        ValueError: A copy of the backbone computes something else.
    """
    exported, precise = (with_precision(backbone, dtype) for dtype in ("float32", "float64"))
    rounding = check_copies(backbone, exported, precise, images)
    size = backbone.output_shape[-1]
    head = InitialHead(np.zeros((size, 1), np.float32), np.zeros(1, np.float32), True, 0.1, 1, 5)
    graphs = build_graphs(exported, head, declare(images.shape[1:], "uint8", size))
    return graphs, max(BOUND, LAST_BIT_SLACK * rounding)
