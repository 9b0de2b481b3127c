"""Checkpoints of a run: all that it takes to go on to the very weights of an undisturbed one.

A checkpoint is a `.keras` file, with the optimizer's state, the learned rates and the position in
the schedule; in it, `training.json` says where the run stands: the steps done, which are the
position in the stream of episodes too, the history of the finished epochs, and the figures so far
of one that is not. Its name ends with the first digits of its sha256: a damaged one is recognised.
"""

import hashlib
import json
import logging
import os
import re
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from anil_tf.support.files import clear_partial, replacing

KEEP = 3
STATE = "training.json"
_NAME = re.compile(r"step-(\d+)\.([0-9a-f]{16})\.keras")
_log = logging.getLogger(__name__)


@dataclass
class State:
    """Where a run stands, its weights apart.

    Attributes:
        step: Outer steps done.
        history: The figures of each finished epoch, by name.
        figures: Values of the variables of the model's metrics, within an epoch.
        seconds: Of that epoch, so far.
    """

    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    figures: list[Any] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def total_seconds(self) -> float:
        """Of all epochs, those before a resumption too."""
        return self.seconds + sum(row["wall_seconds"] for row in self.history)


def save_checkpoint(model: keras.Model, state: State, folder: Path, writes: bool = True) -> Path:
    """Writes a checkpoint and removes all but the newest few.

    Args:
        model: Compiled, with its optimizer built.
        state: Where the run stands.
        folder: Of the checkpoints.
        writes: Whether this process keeps it. Saving gathers what replicas hold apart, so every
            worker of a cluster takes part.

    Returns:
        The checkpoint's path; the folder's if it is not kept here.

    Raises:
        OSError: It cannot be written: it is named, and earlier ones are left as they were.
    """
    if not writes:
        save_model(model, folder, writes=False)
        return folder
    plain = folder / f"step-{state.step:08d}.keras"
    with replacing(plain) as partial:
        model.save(partial)
        with zipfile.ZipFile(partial, "a") as archive:
            archive.writestr(STATE, json.dumps(asdict(state)))
        digest = _digest(partial)
    path = plain.with_name(f"{plain.stem}.{digest}.keras")
    os.replace(plain, path)
    for old in set(folder.glob("step-*.keras")) - set(_newest_first(folder)[:KEEP]):
        old.unlink()
    return path


def find_checkpoint(folder: Path, writes: bool = True) -> tuple[Path, State] | None:
    """The newest checkpoint that is not damaged, if there is one.

    Args:
        folder: Of the checkpoints.
        writes: Whether to put damaged ones aside, under other names.
    """
    for path in _newest_first(folder):
        try:
            if _digest(path) == _match(path)[2]:
                with zipfile.ZipFile(path) as archive:
                    return path, State(**json.loads(archive.read(STATE)))
        except FileNotFoundError:  # another worker has put it aside
            continue
        _log.warning("%s is damaged; going on from the checkpoint before it", path)
        if writes:
            os.replace(path, path.with_suffix(".damaged"))
    return None


def save_model(model: keras.Model, path: Path, writes: bool = True) -> None:
    """Writes a `.keras` file, whole or not at all; into the air where this process keeps none."""
    if writes:
        with replacing(path) as partial:
            model.save(partial)
        return
    with tempfile.TemporaryDirectory() as scratch:
        model.save(Path(scratch) / "model.keras")


def write_history(path: Path, history: Sequence[dict[str, float]]) -> None:
    """Writes `history.csv`, a row an epoch."""
    names = ["epoch", *sorted(history[0].keys() - {"epoch"})]
    rows = [names, *([str(row[name]) for name in names] for row in history)]
    with replacing(path) as partial:
        partial.write_text("".join(",".join(row) + "\n" for row in rows), encoding="utf-8")


class Checkpoint(keras.callbacks.Callback):
    """Keeps the history, and a checkpoint, of every epoch; of one that is broken off on request.

    Args:
        run: The run directory.
        state: Where the run stands; kept up to date here.
        writes: Whether this process is the one that writes.
    """

    def __init__(self, run: Path, state: State, writes: bool = True) -> None:
        super().__init__()
        self.run, self.state, self.writes = run, state, writes
        self.folder = run / "checkpoints"
        if writes:
            clear_partial(self.folder)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Puts back the figures of an epoch that was broken off."""
        if self.state.figures:
            for variable, value in zip(self._variables(), self.state.figures, strict=True):
                variable.assign(value)
        self.state.figures = []

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Counts."""
        self.state.step += 1

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Writes the epoch's row and its checkpoint."""
        figures = {name: float(value) for name, value in (logs or {}).items()}
        self.state.history.append({"epoch": epoch, **figures})
        self.state.seconds = 0.0
        self._save()
        if self.writes:
            write_history(self.run / "history.csv", self.state.history)

    def save_within_epoch(self, seconds: float) -> Path:
        """Writes a checkpoint that goes on within the epoch, of which `seconds` have passed."""
        self.state.seconds = seconds
        self.state.figures = [np.asarray(value).tolist() for value in self._variables()]
        return self._save()

    def _save(self) -> Path:
        return save_checkpoint(self.model, self.state, self.folder, self.writes)

    def _variables(self) -> list[Any]:
        return [variable for metric in self.model.metrics for variable in metric.variables]


def _newest_first(folder: Path) -> list[Path]:
    paths = [path for path in folder.glob("step-*.keras") if _NAME.fullmatch(path.name)]
    return sorted(paths, key=lambda path: int(_match(path)[1]), reverse=True)


def _match(path: Path) -> re.Match[str]:
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path} is not the name of a checkpoint")
    return match


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
