"""A run that trains in seconds, as a separate process, for the tests and the programs here."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SETTINGS = (
    "data.image_shape=[12, 12, 1]",
    "data.split_sizes=[6, 3, 3]",
    "model.backbone.name=conv4_strided",
    "model.backbone.filters=8",
    "model.backbone.blocks=2",
    "model.backbone.cosine=false",
    "model.inner_steps=5",
    "model.inner_lr=0.01",
    "model.learn_inner_lr=true",
    "model.views=single",
    "model.image_weight=0",
    "training.ways=3",
    "training.shots=1",
    "training.flips=false",
    "training.queries=2",
    "training.tasks=4",
    "training.steps=60",
    "training.checkpoint_every=12",
    "training.validation_episodes=8",
    "training.deterministic=true",
    "evaluation.ways=3",
    "evaluation.queries=2",
    "evaluation.episodes=6",
)


def make_classes(root: Path) -> Path:
    """A folder tree of twelve classes, each with its own pattern in 8 noisy drawings."""
    rng = np.random.default_rng(0)
    for index in range(12):
        folder = root / f"class{index:02d}"
        folder.mkdir(parents=True)
        pattern = rng.integers(0, 255, (4, 4)).repeat(3, 0).repeat(3, 1)
        for number in range(8):
            pixels = np.clip(pattern + rng.integers(-20, 20, pattern.shape), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return root


def train_command(data: Path, output: Path, *settings: str, options: Sequence[str] = ()) -> list:
    """The command line that trains it."""
    words = [sys.executable, "-m", "anil_tf", "train", "--recipe", "mini-imagenet-5way-1shot"]
    for setting in (*SETTINGS, *settings):
        words += ["--set", setting]
    return [*words, "--data-dir", str(data), "--output", str(output), *options]


def run(command: Sequence[str], **environment: str) -> subprocess.CompletedProcess:
    """Runs a command in the checkout until it ends."""
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, cwd=_ROOT
    )


def start(command: Sequence[str], **environment: str) -> subprocess.Popen:
    """Starts a command in the checkout."""
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
        cwd=_ROOT,
    )


def read_run(output: Path) -> tuple[list[np.ndarray], list[dict[str, Any]]]:
    """Weights and optimizer variables of a run, and its history without the seconds."""
    import csv

    import keras

    import anil_tf.maml  # noqa: F401  registers the classes that a run may hold

    model = keras.saving.load_model(output / "model.keras")
    weights = [np.asarray(weight) for weight in [*model.weights, *model.optimizer.variables]]
    with (output / "history.csv").open(newline="", encoding="utf-8") as file:
        rows = [
            {k: v for k, v in row.items() if k != "wall_seconds"} for row in csv.DictReader(file)
        ]
    return weights, rows


def same_run(first: Path, second: Path) -> bool:
    """Whether two runs agree to the last bit, except in their seconds."""
    (weights, rows), (other_weights, other_rows) = read_run(first), read_run(second)
    same = [a.tobytes() == b.tobytes() for a, b in zip(weights, other_weights, strict=True)]
    return all(same) and rows == other_rows


_ROOT = Path(__file__).resolve().parents[2]
