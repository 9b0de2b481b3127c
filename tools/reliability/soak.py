"""Trains, evaluates and exports in a loop, in one process, and watches its memory.

    python -m tools.reliability.soak --minutes 30 --json soak.json

Memory is the resident set after each round; rounds within the first `--warm-up` minutes do not
count, because caches fill and libraries are loaded.
"""

import argparse
import gc
import json
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from tools.reliability.small import SETTINGS, make_classes


def main() -> None:
    """Runs the rounds and prints one line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--warm-up", type=float, default=6)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    import keras

    from anil_tf.export.bundle import export_bundle
    from anil_tf.training.evaluate import evaluate_path
    from anil_tf.training.recipe import read_recipe
    from anil_tf.training.train import train

    settings = [text for text in SETTINGS if "deterministic" not in text]
    recipe = read_recipe("mini-imagenet-5way-1shot", settings)
    rounds: list[tuple[float, float]] = []
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        data = make_classes(Path(scratch) / "data")
        while (minutes := (time.monotonic() - begun) / 60) < arguments.minutes:
            run, bundle = Path(scratch) / "run", Path(scratch) / "bundle"
            train(recipe, run, data)
            evaluate_path(run, data)
            export_bundle(run, bundle, ["saved_model", "onnx"])
            evaluate_path(bundle, data)
            for folder in (run, bundle):
                shutil.rmtree(folder)
            keras.backend.clear_session()
            gc.collect()
            rounds.append((minutes, resident_mb()))
            print(f"{minutes:5.1f} min: {rounds[-1][1]:.0f} MB", flush=True)
    figures = growth(rounds, arguments.warm_up)
    print(json.dumps(figures))
    if arguments.json:
        arguments.json.write_text(json.dumps({**figures, "rounds": rounds}) + "\n")


def growth(rounds: list[tuple[float, float]], warm_up: float) -> dict[str, float]:
    """How much memory grew after the warm-up: the mean of the last rounds against the first."""
    counted = [memory for minutes, memory in rounds if minutes >= warm_up]
    ends = max(1, len(counted) // 5)
    first, last = float(np.mean(counted[:ends])), float(np.mean(counted[-ends:]))
    return {
        "minutes": round(rounds[-1][0], 1),
        "rounds": len(rounds),
        "first_mb": round(first, 1),
        "last_mb": round(last, 1),
        "growth": round(last / first - 1, 4),
    }


def resident_mb() -> float:
    """Resident memory of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise OSError("no VmRSS in /proc/self/status")


if __name__ == "__main__":
    main()
