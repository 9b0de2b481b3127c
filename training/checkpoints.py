"""Checkpoints of a run, and its history, from which an interrupted run goes on."""

import csv
import os
import re
from pathlib import Path

import keras

_NAME = re.compile(r"epoch-(\d+)\.keras")


class Checkpoint(keras.callbacks.Callback):
    """Saves model and optimizer at the end of every epoch; keeps the newest alone.

    Args:
        folder: Where `epoch-0001.keras` and so on go.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Writes beside and renames, so that a checkpoint is whole or absent."""
        partial = self.folder / "partial.keras"
        self.model.save(partial)
        newest = self.folder / f"epoch-{epoch + 1:04d}.keras"
        os.replace(partial, newest)
        for path in self.folder.glob("epoch-*.keras"):
            if path != newest:
                path.unlink()


def latest_checkpoint(folder: Path) -> tuple[Path, int] | None:
    """The newest checkpoint and how many epochs it has seen, if there is one."""
    found = [
        (int(match[1]), path)
        for path in folder.glob("*.keras")
        if (match := _NAME.fullmatch(path.name))
    ]
    if not found:
        return None
    epochs, path = max(found)
    return path, epochs


def total_seconds(path: Path) -> float:
    """The seconds of every epoch in `history.csv`, of the runs before a resumption too."""
    if not path.is_file():
        return 0.0
    with path.open(newline="", encoding="utf-8") as file:
        return sum(float(row["wall_seconds"]) for row in csv.DictReader(file))


def truncate_history(path: Path, epochs: int) -> None:
    """Drops rows of `history.csv` that are later than the checkpoint."""
    if not path.is_file():
        return
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    kept = rows[:1] + [row for row in rows[1:] if row and int(row[0]) < epochs]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(kept)
