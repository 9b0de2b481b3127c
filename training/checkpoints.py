"""Checkpoints: everything needed to resume a run and end with the weights of an uninterrupted run.

A checkpoint is a `.keras` file with the optimizer's state, the learned rates and the position in
the schedule. Inside it, `training.json` holds the progress of the run: the number of steps, which
is also the position in the stream of episodes, the history of the finished epochs, and the metrics
so far of an unfinished epoch. The file's name ends with the first digits of its sha256, so that a
damaged checkpoint is recognised.

`keras.callbacks.BackupAndRestore` does less: it neither detects damage, nor saves within an epoch
on request, nor lets the workers of a cluster agree on the step to stop at.
"""

import hashlib
import json
import logging
import os
import re
import tempfile
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras

from anil_tf.support.files import replacing
from anil_tf.training.run import RunDirectory

KEEP = 3
STATE = "training.json"
_NAME = re.compile(r"step-(\d+)\.([0-9a-f]{16})\.keras")
_UNNAMED = re.compile(r"step-\d{8}\.keras")  # written by a process that was killed right after
_log = logging.getLogger(__name__)


@dataclass
class State:
    """The progress of a run, apart from its weights.

    Attributes:
        step: Number of outer steps done.
        history: Metrics of each finished epoch, by name.
        figures: Values of the variables of the model's metrics, within an epoch.
        seconds: Duration of the current epoch so far.
        before: Metrics of the validation before the first step, where the best weights are kept.
    """

    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    figures: list[Any] = field(default_factory=list)
    seconds: float = 0.0
    before: dict[str, float] = field(default_factory=dict)

    @property
    def best_epoch(self) -> int:
        """Number of the epoch with the smallest validation loss, from 1; 0 is before training."""
        losses = [self.before["loss"], *(row["val_loss"] for row in self.history)]
        return losses.index(min(losses))

    @property
    def total_seconds(self) -> float:
        """Duration of all epochs, including those before the run was resumed."""
        return self.seconds + sum(row["wall_seconds"] for row in self.history)


def save_checkpoint(model: keras.Model, state: State, folder: Path, writes: bool = True) -> Path:
    """Writes a checkpoint and removes all but the newest few.

    Args:
        model: Compiled model with its optimizer built.
        state: Progress of the run.
        folder: Folder of the checkpoints.
        writes: Whether this process keeps the file. Saving collects what the replicas hold, so
            every worker of a cluster takes part.

    Returns:
        Path of the checkpoint, or of the folder if this process keeps no file.

    Raises:
        OSError: The checkpoint cannot be written. The error names it; earlier ones are unchanged.
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
    unnamed = (other for other in folder.glob("step-*.keras") if _UNNAMED.fullmatch(other.name))
    for old in (*_newest_first(folder)[KEEP:], *unnamed):
        old.unlink()
    return path


def find_checkpoint(folder: Path, writes: bool = True) -> tuple[Path, State] | None:
    """The newest checkpoint that is not damaged, if there is one.

    Args:
        folder: Folder of the checkpoints.
        writes: Whether to rename damaged checkpoints.
    """
    for path in _newest_first(folder):
        try:
            if _digest(path) == _match(path)[2]:
                with zipfile.ZipFile(path) as archive:
                    return path, State(**json.loads(archive.read(STATE)))
        except FileNotFoundError:  # another worker has renamed it
            continue
        _log.warning("%s is damaged; resuming from the checkpoint before it", path)
        if writes:
            os.replace(path, path.with_suffix(".damaged"))
    return None


def save_model(model: keras.Model, path: Path, writes: bool = True) -> None:
    """Writes a `.keras` file atomically.

    Saving is a collective operation: a worker that keeps no file saves to a temporary folder and
    discards it.
    """
    if writes:
        with replacing(path) as partial:
            model.save(partial)
        return
    with tempfile.TemporaryDirectory() as scratch:
        model.save(Path(scratch) / "model.keras")


@dataclass
class TrainingRun:
    """A run that is being trained: its directory and where it stands.

    Attributes:
        directory: Files of the run.
        writes: Whether this process writes them. Of the workers of a cluster only one does.
        resume_command: Command that resumes the run, for the user.
        patience: Number of validations without improvement that ends training, at the best weights;
            None to train to the end and keep the last weights.
        state: Progress so far. The callbacks of `fit` keep it up to date.
    """

    directory: RunDirectory
    writes: bool
    resume_command: str
    patience: int | None = None
    state: State = field(default_factory=State)

    def resume(self, model: keras.Model) -> bool:
        """Restores model and state from the newest good checkpoint; says whether there is one."""
        found = find_checkpoint(self.directory.checkpoints, self.writes)
        if found:
            path, self.state = found
            model.load_weights(path)
        return found is not None

    def save(self, model: keras.Model) -> Path:
        """Writes a checkpoint; see `save_checkpoint`."""
        return save_checkpoint(model, self.state, self.directory.checkpoints, self.writes)

    def finish_epoch(self, model: keras.Model, figures: dict[str, float]) -> None:
        """Adds a finished epoch to the history, and writes history and checkpoint."""
        self.state.history.append(figures)
        if self.patience is not None and self.state.best_epoch == len(self.state.history):
            self.save_best(model)
        self.save(model)
        if self.writes:
            self.directory.write_history(self.state.history)

    @property
    def has_stopped(self) -> bool:
        """Whether validation has not improved for so long that training is over."""
        state = self.state
        return self.patience is not None and bool(
            len(state.history) - state.best_epoch >= self.patience
        )

    def start(self, model: keras.Model, validation: Any) -> None:
        """Validates the model before its first step, if the best weights are kept."""
        if self.patience is not None and not self.state.before:
            self.state.before = model.evaluate(validation, verbose=0, return_dict=True)
            self.save_best(model)

    def save_best(self, model: keras.Model) -> None:
        """Keeps the weights: no others have had a smaller validation loss."""
        save_model(model, self.directory.best_file, self.writes)

    def restore_best(self, model: keras.Model) -> None:
        """Goes back to the best weights, if they are kept."""
        if self.patience is not None:
            model.load_weights(self.directory.best_file)

    def save_model(self, model: keras.Model) -> None:
        """Writes the trained model."""
        save_model(model, self.directory.model_file, self.writes)

    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint, if there is one."""
        return next(iter(_newest_first(self.directory.checkpoints)), None)


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
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]  # enough against accidents
