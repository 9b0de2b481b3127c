"""What `fit` runs beside the training steps: counting, reports, checkpoints, and reasons to stop.

The callbacks know the run, see `TrainingRun`, and not each other. They depend on each other in one
way only, the order in which Keras calls them, which `anil_tf.training.train.fit` sets.
"""

import contextlib
import logging
import math
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

from anil_tf.distribution import in_cluster
from anil_tf.training.checkpoints import State, TrainingRun
from anil_tf.training.recipe import Recipe

STOPPED = 128 + signal.SIGTERM  # the exit status that shells use
AGREE_EVERY = 10  # steps between two questions of a cluster's workers whether one is to stop
# Adaptation does harm where the loss exceeds this multiple of the loss by chance. The first steps
# of an epoch are not judged.
FAR_ABOVE_CHANCE, SETTLED = 2.0, 20
_log = logging.getLogger(__name__)


class Counter(keras.callbacks.Callback):
    """Counts steps and seconds in the run's state, and adds `wall_seconds` to an epoch's metrics.

    Args:
        run: Run in training.
    """

    def __init__(self, run: TrainingRun) -> None:
        super().__init__()
        self.run = run
        self.since = time.perf_counter() - run.state.seconds

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Begins to count the steps of this epoch, or the rest of one that was interrupted."""
        self.before = self.run.state.step

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Counts the steps of an execution, of which `batch` is the last.

        At the end of an epoch there are fewer than in other executions, but Keras does not say so.
        """
        self.run.state.step = self.before + min(batch + 1, self.params["steps"])
        self.run.state.seconds = time.perf_counter() - self.since

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Ends the epoch's time, which includes its validation."""
        now = time.perf_counter()
        if logs is not None:
            logs["wall_seconds"] = now - self.since
        self.since, self.run.state.seconds = now, 0.0


class Progress(keras.callbacks.Callback):
    """Shows one progress bar over all steps, and one line per epoch.

    Args:
        run: Run in training.
        total: Number of steps of the whole run.
    """

    def __init__(self, run: TrainingRun, total: int) -> None:
        super().__init__()
        self.run = run
        self.bar = tqdm(
            desc="Training", total=total, initial=run.state.step, unit="step",
            disable=None if run.writes else True,
        )  # fmt: skip

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Advances the bar."""
        self.bar.update(self.run.state.step - self.bar.n)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Writes the epoch's metrics."""
        figures = ", ".join(
            f"{name} {value:.4f}"
            for name, value in (logs or {}).items()
            if "before" not in name and name != "wall_seconds"
        )
        if self.run.writes:
            tqdm.write(f"step {self.run.state.step}/{self.bar.total}: {figures}")


class Checkpoint(keras.callbacks.Callback):
    """Writes history and checkpoint after every epoch.

    Args:
        run: Run in training.
    """

    def __init__(self, run: TrainingRun) -> None:
        super().__init__()
        self.run = run

    @property
    def state(self) -> State:
        """Progress of the run."""
        return self.run.state

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Restores the metrics of an epoch that was interrupted."""
        if self.state.figures:
            for variable, value in zip(
                metric_variables(self.model), self.state.figures, strict=True
            ):
                variable.assign(value)
        self.state.figures = []

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Writes the epoch's row and its checkpoint."""
        figures = {name: float(value) for name, value in (logs or {}).items()}
        self.run.finish_epoch(self.model, {"epoch": epoch, **figures})
        self.model.stop_training = self.run.has_stopped


class StopRequest(keras.callbacks.Callback):
    """On SIGTERM, finishes the step, saves and exits with status 143.

    A request during a validation takes effect at its end. The workers of a cluster stop at the same
    step, whichever of them got the request.

    Args:
        run: Run in training.
        steps_per_epoch: Number of steps in an epoch.
        strategy: Strategy of the model, which knows the workers.
    """

    def __init__(
        self, run: TrainingRun, steps_per_epoch: int, strategy: tf.distribute.Strategy
    ) -> None:
        super().__init__()
        self.run, self.steps_per_epoch, self.strategy = run, steps_per_epoch, strategy
        self.requested = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Context manager in which SIGTERM is a request to stop, in the main thread alone."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.signal(signal.SIGTERM, self._request)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Stops within an epoch; after its last step, the epoch is finished first."""
        state = self.run.state
        if state.step % self.steps_per_epoch and self._agreed(state.step % AGREE_EVERY == 0):
            values = metric_variables(self.model)
            state.figures = [np.asarray(value).tolist() for value in values]
            self._leave(self.run.save(self.model))

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Stops after the epoch's checkpoint."""
        if self._agreed(True):
            self._leave(self.run.directory.checkpoints)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True

    def _agreed(self, ask: bool) -> bool:
        if not in_cluster(self.strategy):
            return self.requested
        if not ask:
            return False
        requests = tf.constant(float(self.requested))
        return float(self.strategy.reduce(tf.distribute.ReduceOp.SUM, requests, axis=None)) > 0

    def _leave(self, path: Path) -> None:
        if self.run.writes:
            tqdm.write(
                f"Stopped by SIGTERM after step {self.run.state.step}; saved in {path}.\n"
                f"Resume with: {self.run.resume_command}",
                file=sys.stderr,
            )
        sys.exit(STOPPED)


class NumberGuard(keras.callbacks.Callback):
    """Ends training at a loss or a weight that is not finite; warns if adaptation diverges.

    Args:
        run: Run in training.
        recipe: Recipe of the run.
        seed: Seed of the stream of episodes.
        ways: Number of classes that a query is classified among.
    """

    def __init__(self, run: TrainingRun, recipe: Recipe, seed: int, ways: int) -> None:
        super().__init__()
        self.run, self.recipe, self.seed = run, recipe, seed
        # The loss of predictions by chance. That of a regression is not known.
        self.chance = math.log(ways) if recipe.adapts and ways > 1 else math.inf

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Checks the loss, averaged over the epoch so far."""
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            self._stop(f"The loss is {loss}")
        if batch + 1 >= SETTLED and loss > FAR_ABOVE_CHANCE * self.chance:
            self._warn(loss)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Checks the weights, which are about to be saved."""
        for weight in self.model.trainable_weights:
            if not np.isfinite(np.asarray(weight)).all():
                self._stop(f"The weights {weight.path} are not finite")

    def _warn(self, loss: float) -> None:
        _log.warning(
            "The loss of the queries after adaptation is %.3g; by chance it is %.3g: "
            "the inner loop diverges. Lower model.inner_lr (now %s) or model.inner_steps (%d), "
            "learn the rate (model.learn_inner_lr=true), or bound the features "
            "(model.backbone.cosine=true)",
            loss, self.chance, np.array2string(np.asarray(self.model.inner_lr), precision=3),
            self.recipe.model.inner_steps,
        )  # fmt: skip
        self.chance = math.inf  # one warning is enough

    def _stop(self, what: str) -> None:
        training, step = self.recipe.training, self.run.state.step
        first = step - self.model.steps_per_execution  # it may be any step of the execution
        raise ValueError(
            f"{what} at step {step}: its episodes are {max(0, first) * training.tasks} to "
            f"{step * training.tasks - 1} of the stream with seed {self.seed}. The last good "
            f"checkpoint: {self.run.last_checkpoint() or 'none yet'}. Train into another --output "
            f"with a lower training.learning_rate (now {training.learning_rate:g}) or "
            f"model.inner_lr (now {self.recipe.model.inner_lr:g})"
        )


def metric_variables(model: keras.Model) -> list[Any]:
    """The variables that accumulate the metrics of an epoch."""
    return [variable for metric in model.metrics for variable in metric.variables]


def resume_command(output: Path, data_dir: Path | None, strategy: str) -> str:
    """The command that resumes a run."""
    words = ["anil", "train", "--recipe", str(output / "recipe.toml"), "--output", str(output)]
    words += ["--data-dir", str(data_dir)] if data_dir else []
    words += ["--strategy", strategy] if strategy != "none" else []
    return shlex.join([*words, "--resume"])
