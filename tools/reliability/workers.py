"""Compares two workers, and two devices, with one: weights, speed, and the loss of a worker.

    python -m tools.reliability.workers --steps 50

Runs `anil train` with `--strategy none`, with `--strategy mirrored` on two logical devices, then
two processes on loopback with `--strategy multiworker`, then two of which one is killed
during the run, and both are resumed with `--resume`.
"""

import argparse
import json
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tools.reliability.small import make_classes, read_run, run, start, train_command

# `python -m anil_tf` where TensorFlow takes the processor for two devices.
TWO_DEVICES = """
import tensorflow as tf
processor = tf.config.list_physical_devices("CPU")[0]
halves = [tf.config.LogicalDeviceConfiguration(), tf.config.LogicalDeviceConfiguration()]
tf.config.set_logical_device_configuration(processor, halves)
from anil_tf.cli import main
main()
"""


def mirrored(command: list[str]) -> list[str]:
    """The command, of `train_command`, on two logical devices."""
    words = command[command.index("anil_tf") + 1 :]
    return [sys.executable, "-c", TWO_DEVICES, *words, "--strategy", "mirrored"]


def cluster(command: list[str], workers: int = 2) -> list[Any]:
    """Starts the workers of a cluster on free ports of this machine."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(workers)]
    hosts = [f"localhost:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return [
        start(
            command,
            TF_CONFIG=json.dumps(
                {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}}
            ),
        )
        for index in range(workers)
    ]


def finish(processes: list[Any]) -> list[tuple[int, str]]:
    """Exit status and output of each worker."""
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, outputs, strict=True)]


def largest_difference(first: Path, second: Path) -> float:
    """The largest difference between the weights and optimizer variables of two runs."""
    pairs = zip(read_run(first)[0], read_run(second)[0], strict=True)
    return max(float(np.max(np.abs(np.float64(one) - other), initial=0)) for one, other in pairs)


def throughput(output: Path) -> float:
    """Images per second of a finished run."""
    return json.loads((output / "metrics.json").read_text())["train"]["images_per_second"]


def lose_a_worker(data: Path, output: Path, settings: list[str]) -> dict[str, Any]:
    """Kills one of two workers after a checkpoint, and resumes both."""
    command = train_command(
        data, output, *settings, options=["--strategy", "multiworker", "--resume"]
    )
    processes = cluster(command)
    while not list(output.glob("checkpoints/step-*.keras")):
        if processes[0].poll() is not None:
            raise RuntimeError(processes[0].communicate()[0])
        time.sleep(0.05)
    processes[1].kill()
    begun = time.perf_counter()
    (status, text), _ = finish(processes)
    seconds = time.perf_counter() - begun
    for again, output_text in finish(cluster(command)):
        if again:
            raise RuntimeError(output_text)
    error = [line for line in text.splitlines() if line.startswith("Error: ")]
    return {"status": status, "error": error, "seconds_to_end": round(seconds, 1)}


def main() -> None:
    """Prints the measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--set", dest="settings", action="append", default=[])
    arguments = parser.parse_args()
    settings = [
        f"training.steps={arguments.steps}",
        f"training.checkpoint_every={max(1, arguments.steps // 5)}",
        # A shared head's column has no gradient but rounding, which Adam makes large.
        "model.head_init=per_class",
        *arguments.settings,
    ]
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        data = make_classes(root / "data")
        for words in (
            train_command(data, root / "one", *settings),
            mirrored(train_command(data, root / "mirrored", *settings)),
        ):
            finished = run(words)
            if finished.returncode:
                raise RuntimeError(finished.stderr)
        command = train_command(
            data, root / "two", *settings, options=["--strategy", "multiworker"]
        )
        for status, text in finish(cluster(command)):
            if status:
                raise RuntimeError(text)
        lost = lose_a_worker(data, root / "lost", settings)
        figures = {
            "steps": arguments.steps,
            "largest_difference": {
                name: largest_difference(root / "one", root / name) for name in ("two", "mirrored")
            },
            "images_per_second": {name: throughput(root / name) for name in ("one", "two")},
            "lost": {**lost, "difference": largest_difference(root / "two", root / "lost")},
        }
        print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
