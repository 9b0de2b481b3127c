"""Cost of the inner loop by tasks, shots, ways, feature size and steps, Gram form and tape.

    python -m benchmarks.speed.growth --plot docs/growth.png

The head alone: features in, query loss out, with its second-order gradients of features, head and
rate, on two threads. One size at a time grows from 4 tasks, 5 shots, 5 ways, 15 queries, D = 800
and 5 steps. Memory is that of all tensors that a step computes, none freed.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.speed.worker import THREADS, keep_to_two_cores

keep_to_two_cores()

import tensorflow as tf

from anil_tf.heads import LinearHead
from anil_tf.inner_loop import adapt_linear, tape_loop
from anil_tf.losses import cross_entropy, task_loss
from anil_tf.support.json_files import write_json

BASE = {"tasks": 4, "shots": 5, "ways": 5, "features": 800, "steps": 5}
SIZES = {
    "tasks": [1, 4, 16, 64],
    "shots": [1, 5, 20, 50],
    "ways": [2, 5, 20, 50],
    "features": [64, 256, 800, 3200],
    "steps": [1, 5, 10, 20],
}
QUERIES = 15
FORMS = ("gram", "tape")

Step = Callable[..., list[tf.Tensor]]


def make_step(form: str, labels: tf.Tensor, query_labels: tf.Tensor, steps: int) -> Step:
    """Query loss and gradients of features `[T, M + Q, D]`, head and rate."""
    head = LinearHead(1)

    def step(*watched: tf.Tensor) -> list[tf.Tensor]:
        rows, kernel, bias, rate = watched
        with tf.GradientTape() as tape:
            tape.watch(watched)
            support, query = rows[:, : labels.shape[1]], rows[:, labels.shape[1] :]
            if form == "gram":
                adapted = adapt_linear(support, labels, kernel, bias, cross_entropy, rate, steps)
                logits = adapted.logits(query)
            else:
                start = [
                    tf.tile(w[tf.newaxis], [labels.shape[0]] + [1] * len(w.shape))
                    for w in (kernel, bias)
                ]
                weights = tape_loop(
                    lambda w: task_loss(cross_entropy, labels, head.apply(w, support)),
                    start,
                    rate,
                    steps,
                )
                logits = head.apply(weights, query)
            loss = tf.reduce_mean(cross_entropy(query_labels, logits))
        return [loss, *tape.gradient(loss, watched)]

    return step


def measure(form: str, size: dict[str, int], calls: int) -> dict[str, Any]:
    """Median seconds and bytes of one step."""
    rng = np.random.default_rng(0)
    tasks, ways, features = size["tasks"], size["ways"], size["features"]
    labels, query_labels = (
        tf.constant(np.tile(np.repeat(np.arange(ways), rows), (tasks, 1)), tf.int32)
        for rows in (size["shots"], QUERIES)
    )
    rows = labels.shape[1] + query_labels.shape[1]
    arguments = [
        tf.constant(rng.standard_normal(shape) * scale, tf.float32)
        for shape, scale in (
            ((tasks, rows, features), features**-0.5),
            ((features, ways), 0.1),
            ((ways,), 0.1),
        )
    ]
    arguments.append(tf.constant(0.1))
    step = tf.function(make_step(form, labels, query_labels, size["steps"]))
    graph = step.get_concrete_function(*arguments).graph
    count = sum(
        (output.shape.num_elements() or 0) * output.dtype.size
        for operation in graph.get_operations()
        if operation.type not in ("Const", "Placeholder")
        for output in operation.outputs
    )
    step(*arguments)
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        step(*arguments)[0].numpy()
        seconds.append(time.perf_counter() - start)
    return {"seconds": statistics.median(seconds), "bytes": count}


def plot(figures: dict[str, Any], path: Path) -> None:
    """Time above, memory below; one column per size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    _, axes = pyplot.subplots(2, len(SIZES), figsize=(3 * len(SIZES), 5.5), sharey="row")
    for column, (name, values) in enumerate(SIZES.items()):
        for row, (what, scale, label) in enumerate(
            (("seconds", 1e3, "ms a step"), ("bytes", 1e-6, "MB computed"))
        ):
            axis = axes[row][column]
            for form in FORMS:
                heights = [scale * point[what] for point in figures[name][form]]
                axis.plot(values, heights, marker="o", label=form)
            axis.set(xscale="log", yscale="log", xlabel=name)
            axis.set_xticks(values, map(str, values))
            axis.minorticks_off()
            axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter("{x:g}")
            axis.grid(alpha=0.3)
            if column == 0:
                axis.set_ylabel(label)
    axes[0][0].legend()
    pyplot.tight_layout()
    pyplot.savefig(path, dpi=80)


@click.command()
@click.option("--calls", default=30, show_default=True, help="Number of timed calls per point.")
@click.option("--plot", "plot_file", type=click.Path(path_type=Path), help="File for the picture.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="File for the results.")
def main(calls: int, plot_file: Path | None, json_file: Path | None) -> None:
    """Time both forms for a range of each size."""
    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    figures: dict[str, Any] = {}
    for name, values in SIZES.items():
        figures[name] = {
            form: [measure(form, {**BASE, name: value}, calls) for value in values]
            for form in FORMS
        }
        print(f"| {name} | " + " | ".join(map(str, values)) + " |")
        print("|---" * (len(values) + 1) + "|")
        for what, scale, unit in (("seconds", 1e3, "ms"), ("bytes", 1e-6, "MB")):
            for form in FORMS:
                cells = (f"{scale * point[what]:.2f}" for point in figures[name][form])
                print(f"| {form}, {unit} | " + " | ".join(cells) + " |")
        print()
    if plot_file is not None:
        plot(figures, plot_file)
    write_json(json_file, {"base": BASE, "sizes": SIZES, "figures": figures})


if __name__ == "__main__":
    main()
