"""A training step and an adaptation, side by side with PyTorch and JAX.

    make bench                                    # about 10 minutes on two idle cores
    python -m benchmarks.speed.compare --workload W1
    python -m benchmarks.speed.compare --device gpu --python torch=DIR/bin/python

Each implementation runs in its own process and environment, with the same weights and tasks. The
loss and gradient norm of those with the same normalisation must agree. Then they take turns in a
rotating order, with two threads each on a CPU. On a GPU there are other variants, which draw their
episodes there and run 50 steps in one computation.
"""

import contextlib
import json
import os
import statistics
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from anil_tf.support.json_files import write_json
from benchmarks.speed.environments import (
    GIVEN,
    ROOT,
    module_of,
    name_of_gpu,
    python_of,
    variables_of,
)
from benchmarks.speed.table import markdown
from benchmarks.speed.worker import HALF
from benchmarks.speed.workloads import WORKLOADS, write_exchange

# Framework, variant, and what batch normalisation takes its statistics of in training: those of the
# same norm do the same sums.
IMPLEMENTATIONS = [
    ("ours", "anil-batch", "batch"),
    ("ours", "anil-task", "task"),
    ("ours", "anil-batch-tape", "batch"),
    ("ours", "anil-batch-xla", "batch"),
    ("ours", "anil-batch-bfloat16", "batch"),
    ("ours", "floor", "floor"),
    ("torch", "usual-joint", "joint"),
    ("torch", "loop-channels_last-joint", "joint"),
    ("torch", "loop-channels_last-task", "task"),
    ("torch", "batch-channels_last", "batch"),
    ("torch", "loop-channels_last-joint-bfloat16", "joint"),
    ("torch", "batch-channels_last-bfloat16", "batch"),
    ("torch", "floor-channels_last", "floor"),
    ("jax", "batch", "batch"),
    ("jax", "joint", "joint"),
    ("jax", "floor", "floor"),
]
ON_GPU = [
    ("ours", "anil-batch", "batch"),
    ("ours", "anil-batch-xla", "batch"),
    ("ours", "anil-batch-xla-several", "batch"),
    ("ours", "anil-batch-xla-drawn", "batch"),
    ("ours", "anil-batch-xla-drawn-bfloat16", "batch"),
    ("ours", "anil-batch-xla-drawn-float16", "batch"),
    ("torch", "loop-channels_last-joint", "joint"),
    ("torch", "batch-channels_last", "batch"),
    ("torch", "batch-channels_last-compile", "batch"),
    ("torch", "batch-channels_last-graphs", "batch"),
    ("torch", "batch-channels_last-graphs-bfloat16", "batch"),
    ("jax", "batch", "batch"),
    ("jax", "batch-drawn", "batch"),
    ("jax", "batch-drawn-bfloat16", "batch"),
]
# In a sitting of their own: at W2 MAML takes 8 GB. It has no counterpart to agree with.
AGAINST_MAML = [("ours", "anil-task", "maml"), ("ours", "maml-task", "maml")]
TOLERANCE, HALF_TOLERANCE = 1e-3, 0.1  # relative; the second one in 16 bits
TURN = 0.6  # target seconds of training per turn
SLOW = 4.0  # those so many times slower than the fastest take two turns, not all
ADAPTATIONS = 5  # a turn


class Stopped(SystemExit):
    """A process has ended by itself; the message has its last output."""


class Process:
    """One implementation, in a process that waits for requests."""

    def __init__(
        self, framework: str, variant: str, norm: str, exchange: Path, device: str = "cpu"
    ) -> None:
        self.framework, self.variant, self.norm = framework, variant, norm
        self.name = f"{framework} {variant}"
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [str(python_of(framework, device)), "-m", module_of(framework), variant, str(exchange)],
            cwd=ROOT,
            env=os.environ | variables_of(device),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        self.requests = ["train"] if norm == "floor" else ["train", "adapt"]
        if norm == "maml":
            self.requests.append("learn")
        self.seconds: dict[str, list[float]] = {request: [] for request in self.requests}
        self.agrees: bool | None = None
        self.failure = ""

    def ask(self, call: str, **arguments: int) -> list[float]:
        """The reply to a request.

        Raises:
            Stopped: The process died.
        """
        try:
            print(json.dumps({"call": call, **arguments}), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline() if self.process.stdout else ""
        except BrokenPipeError:
            line = ""
        if not line:
            self.log.seek(0)
            raise Stopped(f"{self.name} stopped:\n{self.log.read()[-2000:]}")
        answer: list[float] = json.loads(line)
        return answer

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(BrokenPipeError):
            self.process.communicate()
        self.log.close()


def check_agreement(processes: list[Process]) -> list[dict[str, Any]]:
    """Compares loss and gradient norm of the first step within each norm; marks disagreement."""
    references: dict[str, list[float]] = {}
    first = processes[0]
    if first.variant == "anil-batch":
        references["joint"] = first.ask("check_joint")
    rows = []
    for process in processes:
        if process.norm == "maml":
            rows.append({"name": process.name, "norm": "task", "agrees": True})
            process.agrees = True
            continue
        try:
            loss, norm = process.ask("check")
        except Stopped as error:
            rows.append(_failed(process, error))
            continue
        expected = references.setdefault(process.norm, [loss, norm])
        errors = [abs(a / b - 1) for a, b in zip((loss, norm), expected, strict=True)]
        half = set(HALF) & set(process.variant.split("-"))
        process.agrees = max(errors) < (HALF_TOLERANCE if half else TOLERANCE)
        row = {"name": process.name, "norm": process.norm, "loss": loss, "gradient_norm": norm}
        rows.append({**row, "agrees": process.agrees})
    return rows


def _failed(process: Process, error: Stopped) -> dict[str, Any]:
    """The row of a variant that does not work here, which a table names."""
    click.echo(error, err=True)
    process.failure = str(error)
    return {"name": process.name, "norm": process.norm, "agrees": False, "failed": True}


def measure(processes: list[Process], rounds: int) -> None:
    """Runs all implementations in turns."""
    steps, first = {}, {}
    for process in tqdm(processes, "Warming up", leave=False, disable=None):
        try:
            for request in process.requests:
                process.ask(request, count=1)
            first[process.name] = min(process.ask("train", count=2))
        except Stopped as error:
            _failed(process, error)
            continue
        steps[process.name] = max(1, min(20, round(TURN / first[process.name])))
    processes = [process for process in processes if process.name in first]
    limit = SLOW * min(first.values())
    for turn in tqdm(range(rounds), "Rounds", leave=False, disable=None):
        start = turn % len(processes)
        for process in processes[start:] + processes[:start]:
            if turn < 2 or first[process.name] < limit:
                for request in process.requests:
                    count = steps[process.name] if request == "train" else ADAPTATIONS
                    process.seconds[request] += process.ask(request, count=count)


def summary(seconds: list[float]) -> dict[str, float]:
    """Median, minimum and count."""
    return {
        "median": statistics.median(seconds),
        "minimum": min(seconds),
        "count": len(seconds),
    }


def run_sitting(
    implementations: list[tuple[str, str, str]], exchange: Path, rounds: int, device: str = "cpu"
) -> list[dict[str, Any]]:
    """Runs the implementations of one sitting on one workload."""
    with ExitStack() as stack:
        processes = []
        for framework, variant, norm in implementations:
            processes.append(Process(framework, variant, norm, exchange, device))
            stack.callback(processes[-1].close)
        figures = check_agreement(processes)
        measure([process for process in processes if process.agrees], rounds)
    for process, figure in zip(processes, figures, strict=True):
        figure |= {what: summary(times) for what, times in process.seconds.items() if times}
        figure |= {"failed": True} if process.failure else {}
    return figures


def time_first_step(row: tuple[str, str, str], exchange: Path, device: str) -> float:
    """Seconds of the first two executions in a process of their own, without imports."""
    process = Process(*row, exchange, device)
    try:
        process.ask("start")
        started = time.perf_counter()
        process.ask("train", count=1)
        return time.perf_counter() - started
    finally:
        process.close()


def run_workload(
    name: str, rounds: int, frameworks: tuple[str, ...], skip: tuple[str, ...], device: str = "cpu"
) -> dict[str, Any]:
    """Runs all implementations on one workload, except those whose name contains a skipped word."""
    workload = WORKLOADS[name]
    everyone, pair = (
        [row for row in rows if row[0] in frameworks and not set(skip) & set(row[1].split("-"))]
        for rows in ((ON_GPU, []) if device == "gpu" else (IMPLEMENTATIONS, AGAINST_MAML))
    )
    with tempfile.TemporaryDirectory() as scratch:
        exchange = Path(scratch) / "exchange.npz"
        write_exchange(workload, exchange)
        firsts = {}
        if device == "gpu":  # where compiling takes long
            for row in tqdm(everyone, "First steps", leave=False, disable=None):
                with contextlib.suppress(Stopped):  # the sitting tells of it
                    firsts[f"{row[0]} {row[1]}"] = time_first_step(row, exchange, device)
        return {
            "workload": name,
            "first_steps": firsts,
            "device": name_of_gpu() if device == "gpu" else "two CPU threads",
            "images": workload.images,
            "implementations": run_sitting(everyone, exchange, rounds, device),
            "against_maml": run_sitting(pair, exchange, rounds) if len(pair) == 2 else [],
        }


@click.command()
@click.option("--workload", "names", multiple=True, type=click.Choice(list(WORKLOADS)))
@click.option("--framework", "frameworks", multiple=True, default=("ours", "torch", "jax"))
@click.option("--device", default="cpu", type=click.Choice(["cpu", "gpu"]), show_default=True)
@click.option(
    "--python",
    "pythons",
    multiple=True,
    metavar="FRAMEWORK=PATH",
    help="An interpreter that has the framework; by default its environment is made.",
)
@click.option("--skip", multiple=True, help="Variants to skip: xla, maml, ...")
@click.option("--rounds", default=5, show_default=True, help="Turns per implementation.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="File for the results.")
@click.option(
    "--markdown", "markdown_file", type=click.Path(path_type=Path), help="File for the tables."
)
def main(
    names: tuple[str, ...],
    frameworks: tuple[str, ...],
    device: str,
    pythons: tuple[str, ...],
    skip: tuple[str, ...],
    rounds: int,
    json_file: Path | None,
    markdown_file: Path | None,
) -> None:
    """Compare the implementations. One that computes something else is named and not timed."""
    for given in pythons:
        framework, _, path = given.partition("=")
        GIVEN[framework] = Path(path)
    if device == "gpu":
        name_of_gpu()
    for framework in frameworks:
        python_of(framework, device)
    results = []
    for name in names or WORKLOADS:
        results.append(run_workload(name, rounds, frameworks, skip, device))
        click.echo(markdown(results[-1]) + "\n")
        # What is measured stays, should a later workload fail.
        write_json(json_file, {"rounds": rounds, "device": device, "results": results})
        if markdown_file is not None:
            markdown_file.write_text("\n\n".join(map(markdown, results)) + "\n")


if __name__ == "__main__":
    main()
