"""The exported `adapt` in the Gram form against the plain loop, on one thread.

    make bench-export

The same exporters write both and the same runtimes run them; only the loop differs. In each step
the plain loop changes the kernel and the bias by their own gradients, X^T R and 1^T R.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import ai_edge_litert.interpreter
import click
import numpy as np
import onnxruntime
import tensorflow as tf
from tqdm import tqdm

from anil_tf import backbones
from anil_tf.export import layout
from anil_tf.export.signatures import declare
from anil_tf.export.writers.graphs import Graphs, InitialHead, build_graphs
from anil_tf.export.writers.litert import export_litert
from anil_tf.export.writers.onnx import export_onnx
from anil_tf.losses import weigh_rows
from anil_tf.support.json_files import write_json

ROWS, WAYS = 25, 5
SIZES, STEPS = (64, 1600), (10, 100)
ROUNDS, CALLS = 20, 10  # calls of one loop before the other's turn

Arrays = dict[str, np.ndarray]
Adapt = Callable[[Arrays], Arrays]


def plain_adapt(
    features: tf.Tensor,
    labels: tf.Tensor,
    kernel: tf.Tensor,
    bias: tf.Tensor,
    learning_rate: tf.Tensor,
    steps: tf.Tensor,
) -> dict[str, tf.Tensor]:
    """Gradient descent as it is written in the paper; the signature is that of `adapt`."""
    targets = tf.cast(labels[:, tf.newaxis] == tf.range(tf.size(bias)), tf.float32)
    counted = tf.reduce_sum(targets, axis=1, keepdims=True)
    weights = weigh_rows(targets)
    features = tf.where(counted > 0.0, features, 0.0)

    def loss(kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        log_probabilities = tf.nn.log_softmax(tf.matmul(features, kernel) + bias)
        return -tf.reduce_sum(weights * targets * log_probabilities)

    def step(count: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tuple[tf.Tensor, ...]:
        probabilities = tf.nn.softmax(tf.matmul(features, kernel) + bias)
        residual = learning_rate * weights * (probabilities - targets)
        moved = kernel - tf.matmul(features, residual, transpose_a=True)
        return count + 1, moved, bias - tf.reduce_sum(residual, axis=0)

    start = (tf.constant(0), kernel, bias)
    shapes = (tf.TensorShape([]), kernel.shape, bias.shape)
    _, adapted_kernel, adapted_bias = tf.while_loop(
        lambda count, *_: count < steps, step, start, shape_invariants=shapes
    )
    return {
        "adapted_kernel": adapted_kernel,
        "adapted_bias": adapted_bias,
        "initial_loss": loss(kernel, bias),
        "final_loss": loss(adapted_kernel, adapted_bias),
        "rows_used": tf.cast(tf.reduce_sum(counted), tf.int32),
    }


def make_graphs() -> dict[str, Graphs]:
    """A bundle's functions with each loop; the backbone does not matter here."""
    size = 8
    backbone = backbones.mlp((4,), units=size)
    zeros = np.zeros((size, 1), np.float32), np.zeros(1, np.float32)
    head = InitialHead(*zeros, shared=True, inner_lr=0.1, inner_steps=1, ways=WAYS)
    gram = build_graphs(backbone, head, declare((4,), "float32", size))
    specs = gram.functions["adapt"].input_signature
    plain = tf.function(plain_adapt, input_signature=specs)
    return {"gram": gram, "plain": gram._replace(functions={**gram.functions, "adapt": plain})}


def open_onnx(bundle: Path) -> Adapt:
    """`adapt` on ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(bundle / layout.ONNX["adapt"]), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def open_litert(bundle: Path) -> Adapt:
    """`adapt` on LiteRT."""
    interpreter = ai_edge_litert.interpreter.Interpreter(str(bundle / layout.LITERT), num_threads=1)
    runner = interpreter.get_signature_runner("adapt")
    return lambda inputs: runner(**inputs)


def support_set(size: int, steps: int) -> Arrays:
    """Random features of about unit length, with a rate at which descent converges."""
    rng = np.random.default_rng(0)
    return {
        "features": rng.normal(0, size**-0.5, (ROWS, size)).astype(np.float32),
        "labels": np.arange(ROWS, dtype=np.int32) % WAYS,
        "kernel": np.zeros((size, WAYS), np.float32),
        "bias": np.zeros(WAYS, np.float32),
        "learning_rate": np.array(0.5, np.float32),
        "steps": np.array(steps, np.int32),
    }


def compare(loops: dict[str, Adapt], inputs: Arrays, rounds: int) -> dict[str, float]:
    """Median milliseconds of each loop in turn, after checking that they agree."""
    kernels = [adapt(inputs)["adapted_kernel"] for adapt in loops.values()]
    np.testing.assert_allclose(*kernels, rtol=1e-3, atol=1e-5)
    times: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(rounds):
        for name, adapt in loops.items():
            for _ in range(CALLS):
                start = time.perf_counter()
                adapt(inputs)
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


@click.command()
@click.option("--rounds", default=ROUNDS, show_default=True, help=f"Of {CALLS} calls of each loop.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="File for the results.")
def main(rounds: int, json_file: Path | None) -> None:
    """Time both forms of `adapt` on ONNX Runtime and LiteRT."""
    openers = {"ONNX Runtime": open_onnx, "LiteRT": open_litert}
    runtimes: dict[str, dict[str, Adapt]] = {name: {} for name in openers}
    with tempfile.TemporaryDirectory() as scratch:
        for loop, graphs in make_graphs().items():
            bundle = Path(scratch) / loop
            bundle.mkdir()
            export_onnx(graphs, bundle)
            export_litert(graphs, bundle)
            for name, opener in openers.items():
                runtimes[name][loop] = opener(bundle)

        cases = [(name, size, steps) for name in openers for size in SIZES for steps in STEPS]
        figures = [
            {"runtime": name, "features": size, "steps": steps}
            | compare(runtimes[name], support_set(size, steps), rounds)
            for name, size, steps in tqdm(cases, "Timing", disable=None)
        ]
    print(f"M={ROWS} N={WAYS}, one thread, median milliseconds of {CALLS * rounds} calls")
    print(f"{'runtime':<14}{'D':>6}{'steps':>7}{'plain':>9}{'Gram':>9}{'ratio':>8}")
    for row in figures:
        ratio = row["plain"] / row["gram"]
        print(
            f"{row['runtime']:<14}{row['features']:>6}{row['steps']:>7}"
            f"{row['plain']:>9.3f}{row['gram']:>9.3f}{ratio:>7.1f}x"
        )
    write_json(
        json_file, {"rows": ROWS, "ways": WAYS, "calls": CALLS * rounds, "medians_ms": figures}
    )


if __name__ == "__main__":
    main()
