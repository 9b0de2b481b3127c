"""Kills training at random moments, resumes it, and compares it with an uninterrupted run.

    python -m tools.reliability.kills --kills 25 --steps 1500

A kill (SIGKILL) comes at any time between the creation of the run directory and a few seconds into
training: while a graph is traced, a step runs, or a checkpoint is written. Every restart is
the same command with `--resume`. At the end weights, optimizer and history must be bit-equal.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from tools.reliability.small import make_classes, run, same_run, start, train_command


def kill_and_resume(
    data: Path, output: Path, kills: int, settings: list[str], longest: float, seed: int = 0
) -> list[dict[str, float]]:
    """Trains through the kills. Returns the seconds and the last checkpointed step of each."""
    rng = np.random.default_rng(seed)
    command = train_command(data, output, *settings, options=["--resume"])
    moments: list[dict[str, float]] = []
    while len(moments) < kills:
        process = start(command)
        begun, last = output / "environment.json", _changed(output / "environment.json")
        while _changed(begun) == last and process.poll() is None:
            time.sleep(0.01)
        delay = float(rng.uniform(0, longest))
        time.sleep(delay)
        if process.poll() is not None:
            raise RuntimeError(f"It ended before its kill: {process.communicate()[0]}")
        process.kill()
        process.communicate()
        steps = [
            int(path.name.split(".")[0][5:]) for path in output.glob("checkpoints/step-*.keras")
        ]
        moments.append({"seconds": round(delay, 2), "step": max(steps, default=0)})
        print(f"kill {len(moments)}: {moments[-1]}", flush=True)
    finished = run(command)
    if finished.returncode:
        raise RuntimeError(finished.stderr)
    return moments


def _changed(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def main() -> None:
    """Prints the kills and the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--longest", type=float, default=4.0, help="most seconds before a kill")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    settings = [f"training.steps={arguments.steps}", "training.checkpoint_every=20"]
    with tempfile.TemporaryDirectory() as scratch:
        data = make_classes(Path(scratch) / "data")
        undisturbed, killed = Path(scratch) / "undisturbed", Path(scratch) / "killed"
        finished = run(train_command(data, undisturbed, *settings))
        if finished.returncode:
            raise RuntimeError(finished.stderr)
        moments = kill_and_resume(
            data, killed, arguments.kills, settings, arguments.longest, arguments.seed
        )
        within = sum(moment["step"] > 0 for moment in moments)
        verdict = same_run(undisturbed, killed)
        print(json.dumps({"kills": len(moments), "after_a_checkpoint": within, "equal": verdict}))


if __name__ == "__main__":
    main()
