"""Many small adaptations together: NumPy, TensorFlow, XLA and ONNX Runtime on one core.

    python -m benchmarks.bulk_engines

Shows why `anil_tf.export.bulk.gram` uses NumPy. Tasks are in memory; the other engines unroll the
steps.
"""

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import tensorflow as tf
import tf2onnx

from anil_tf.export.bulk.gram import adapt_tasks

TILE, ROWS, SIZE, WAYS, STEPS, RATE = 256, 25, 64, 5, 10, 0.05
CALLS = 100


def adapt(features: tf.Tensor, labels: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """Kernels `[T, D, N]` of T tasks, without the other results of `adapt_tasks`."""
    targets = tf.one_hot(labels, WAYS)
    gram = tf.matmul(features, features, transpose_b=True) + 1.0
    logits = tf.matmul(features, kernel[tf.newaxis]) + bias
    coefficients = tf.zeros_like(logits)
    for _ in range(STEPS):
        update = RATE / ROWS * (tf.nn.softmax(logits) - targets)
        logits -= tf.matmul(gram, update)
        coefficients -= update
    return tf.matmul(features, coefficients, transpose_a=True) + kernel


def engines(inputs: dict[str, np.ndarray]) -> dict[str, Callable[[], np.ndarray]]:
    """Each engine as a function without arguments."""
    specs = [tf.TensorSpec(value.shape, value.dtype, name) for name, value in inputs.items()]
    tensors = [tf.constant(value) for value in inputs.values()]
    plain = tf.function(adapt, input_signature=specs)
    compiled = tf.function(adapt, input_signature=specs, jit_compile=True)
    model, _ = tf2onnx.convert.from_function(plain, specs, opset=17)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return {
        "NumPy": lambda: adapt_tasks(*inputs.values(), RATE, STEPS).kernel,
        "ONNX Runtime": lambda: session.run(None, inputs)[0],
        "TensorFlow": lambda: plain(*tensors).numpy(),
        "TensorFlow, XLA": lambda: compiled(*tensors).numpy(),
    }


def main() -> None:
    """Times all engines, and checks that they agree."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    rng = np.random.default_rng(0)
    inputs: dict[str, Any] = {
        "features": rng.standard_normal((TILE, ROWS, SIZE), np.float32) / SIZE**0.5,
        "labels": np.tile(np.arange(ROWS, dtype=np.int32) % WAYS, (TILE, 1)),
        "kernel": rng.standard_normal((SIZE, WAYS), np.float32) / 10,
        "bias": np.zeros(WAYS, np.float32),
    }
    expected = adapt_tasks(*inputs.values(), RATE, STEPS).kernel
    for name, run in engines(inputs).items():
        np.testing.assert_allclose(run(), expected, atol=1e-5)
        times = []
        for _ in range(CALLS):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        print(f"{name:<16}{np.median(times) / TILE * 1e6:>6.1f} microseconds a head")


if __name__ == "__main__":
    main()
