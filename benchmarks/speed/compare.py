"""A training step and an adaptation, side by side with PyTorch and JAX.

    make bench                                    # about 10 minutes on two idle cores
    python -m benchmarks.speed.compare --workload W1

Each implementation runs in its own process and environment, with the same weights and tasks. The
loss and gradient norm of those with the same normalisation must agree. Then they take turns in a
rotating order, with two threads each.
"""

import json
import statistics
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from anil_tf.support.json_files import write_json
from benchmarks.speed.environments import ROOT, module_of, python_of
from benchmarks.speed.table import markdown
from benchmarks.speed.workloads import WORKLOADS, write_exchange

# Framework, variant, and what batch normalisation takes its statistics of in training: those of the
# same norm do the same sums.
IMPLEMENTATIONS = [
    ("ours", "anil-batch", "batch"),
    ("ours", "anil-task", "task"),
    ("ours", "anil-batch-tape", "batch"),
    ("ours", "anil-batch-xla", "batch"),
    ("ours", "floor", "floor"),
    ("torch", "usual-joint", "joint"),
    ("torch", "loop-channels_last-joint", "joint"),
    ("torch", "loop-channels_last-task", "task"),
    ("torch", "batch-channels_last", "batch"),
    ("torch", "floor-channels_last", "floor"),
    ("jax", "batch", "batch"),
    ("jax", "joint", "joint"),
    ("jax", "floor", "floor"),
]
# In a sitting of their own: at W2 MAML takes 8 GB. It has no counterpart to agree with.
AGAINST_MAML = [("ours", "anil-task", "maml"), ("ours", "maml-task", "maml")]
TOLERANCE = 1e-3
TURN = 0.6  # target seconds of training per turn
SLOW = 4.0  # those so many times slower than the fastest take two turns, not all
ADAPTATIONS = 5  # a turn


class Process:
    """One implementation, in a process that waits for requests."""

    def __init__(self, framework: str, variant: str, norm: str, exchange: Path) -> None:
        self.framework, self.variant, self.norm = framework, variant, norm
        self.name = f"{framework} {variant}"
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [str(python_of(framework)), "-m", module_of(framework), variant, str(exchange)],
            cwd=ROOT,
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

    def ask(self, call: str, **arguments: int) -> list[float]:
        """The reply to a request.

        Raises:
            SystemExit: The process died; the message has its last output.
        """
        print(json.dumps({"call": call, **arguments}), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            self.log.seek(0)
            raise SystemExit(f"{self.name} stopped:\n{self.log.read()[-2000:]}")
        answer: list[float] = json.loads(line)
        return answer

    def close(self) -> None:
        """Ends the process."""
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
        loss, norm = process.ask("check")
        expected = references.setdefault(process.norm, [loss, norm])
        errors = [abs(a / b - 1) for a, b in zip((loss, norm), expected, strict=True)]
        process.agrees = max(errors) < TOLERANCE
        row = {"name": process.name, "norm": process.norm, "loss": loss, "gradient_norm": norm}
        rows.append({**row, "agrees": process.agrees})
    return rows


def measure(processes: list[Process], rounds: int) -> None:
    """Runs all implementations in turns."""
    steps, first = {}, {}
    for process in tqdm(processes, "Warming up", leave=False, disable=None):
        for request in process.requests:
            process.ask(request, count=1)
        first[process.name] = min(process.ask("train", count=2))
        steps[process.name] = max(1, min(20, round(TURN / first[process.name])))
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
    implementations: list[tuple[str, str, str]], exchange: Path, rounds: int
) -> list[dict[str, Any]]:
    """Runs the implementations of one sitting on one workload."""
    with ExitStack() as stack:
        processes = []
        for framework, variant, norm in implementations:
            processes.append(Process(framework, variant, norm, exchange))
            stack.callback(processes[-1].close)
        figures = check_agreement(processes)
        measure([process for process in processes if process.agrees], rounds)
    for process, figure in zip(processes, figures, strict=True):
        figure |= {what: summary(times) for what, times in process.seconds.items() if times}
    return figures


def run_workload(
    name: str, rounds: int, frameworks: tuple[str, ...], skip: tuple[str, ...]
) -> dict[str, Any]:
    """Runs all implementations on one workload, except those whose name contains a skipped word."""
    workload = WORKLOADS[name]
    everyone, pair = (
        [row for row in rows if row[0] in frameworks and not set(skip) & set(row[1].split("-"))]
        for rows in (IMPLEMENTATIONS, AGAINST_MAML)
    )
    with tempfile.TemporaryDirectory() as scratch:
        exchange = Path(scratch) / "exchange.npz"
        write_exchange(workload, exchange)
        return {
            "workload": name,
            "images": workload.images,
            "implementations": run_sitting(everyone, exchange, rounds),
            "against_maml": run_sitting(pair, exchange, rounds) if len(pair) == 2 else [],
        }


@click.command()
@click.option("--workload", "names", multiple=True, type=click.Choice(list(WORKLOADS)))
@click.option("--framework", "frameworks", multiple=True, default=("ours", "torch", "jax"))
@click.option("--skip", multiple=True, help="Variants to skip: xla, maml, ...")
@click.option("--rounds", default=5, show_default=True, help="Turns per implementation.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="File for the results.")
@click.option(
    "--markdown", "markdown_file", type=click.Path(path_type=Path), help="File for the tables."
)
def main(
    names: tuple[str, ...],
    frameworks: tuple[str, ...],
    skip: tuple[str, ...],
    rounds: int,
    json_file: Path | None,
    markdown_file: Path | None,
) -> None:
    """Compare the implementations. One that computes something else is named and not timed."""
    for framework in frameworks:
        python_of(framework)
    results = []
    for name in names or WORKLOADS:
        results.append(run_workload(name, rounds, frameworks, skip))
        click.echo(markdown(results[-1]) + "\n")
        # What is measured stays, should a later workload fail.
        write_json(json_file, {"rounds": rounds, "threads": 2, "results": results})
        if markdown_file is not None:
            markdown_file.write_text("\n\n".join(map(markdown, results)) + "\n")


if __name__ == "__main__":
    main()
