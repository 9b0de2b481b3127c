"""What watches over a training: the bar, a request to stop, and numbers that go wrong."""

import contextlib
import importlib.util
import logging
import math
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import keras
import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

from anil_tf.distribution import in_cluster
from anil_tf.training.checkpoints import Checkpoint, State
from anil_tf.training.recipe import Recipe

STOPPED = 128 + signal.SIGTERM  # as shells have it
AGREE_EVERY = 10  # steps after which the workers of a cluster ask each other whether to stop
# The loss, as a multiple of chance's, from which adaptation does harm; and when it is looked at.
FAR_ABOVE_CHANCE, SETTLED = 2.0, 20
_log = logging.getLogger(__name__)


class Progress(keras.callbacks.Callback):
    """One bar over all steps, and a line an epoch; leaves its `wall_seconds` for the history.

    Args:
        state: Where the run stands.
        total: Steps in all.
        shown: Whether this process reports at all.
    """

    def __init__(self, state: State, total: int, shown: bool = True) -> None:
        super().__init__()
        self.state, self.shown = state, shown
        self.since = time.perf_counter() - state.seconds
        self.bar = tqdm(
            desc="Training", total=total, initial=state.step, unit="step",
            disable=None if shown else True,
        )  # fmt: skip

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    @property
    def seconds(self) -> float:
        """Of this epoch, so far."""
        return time.perf_counter() - self.since

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Moves the bar."""
        self.bar.update()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Writes the epoch's figures."""
        figures = ", ".join(
            f"{name} {value:.4f}" for name, value in (logs or {}).items() if "before" not in name
        )
        if logs is not None:
            logs["wall_seconds"] = self.seconds
        self.since = time.perf_counter()
        if self.shown:
            tqdm.write(f"step {self.state.step}/{self.bar.total}: {figures}")


class StopRequest(keras.callbacks.Callback):
    """On SIGTERM, finishes the step, saves and leaves with status 143.

    A request in the middle of a validation is heard at its end. The workers of a cluster stop at
    the same step, whichever of them was asked.

    Args:
        checkpoint: Saves.
        seconds: How long the epoch has taken.
        steps_per_epoch: Of them.
        command: The command that goes on.
        strategy: Says which workers there are.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        seconds: Callable[[], float],
        steps_per_epoch: int,
        command: str,
        strategy: tf.distribute.Strategy,
    ) -> None:
        super().__init__()
        self.checkpoint, self.seconds, self.command = checkpoint, seconds, command
        self.steps_per_epoch, self.strategy = steps_per_epoch, strategy
        self.requested = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Within it SIGTERM is a request; only the main thread can listen."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.signal(signal.SIGTERM, self._request)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Stops within an epoch; at its end, the epoch is finished first."""
        step = self.checkpoint.state.step
        if step % self.steps_per_epoch and self._agreed(step % AGREE_EVERY == 0):
            path = self.checkpoint.save_within_epoch(self.seconds())
            self._leave(path)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Stops after the epoch's checkpoint."""
        if self._agreed(True):
            self._leave(self.checkpoint.folder)

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
        if self.checkpoint.writes:
            tqdm.write(
                f"Stopped by SIGTERM after step {self.checkpoint.state.step}; saved in {path}.\n"
                f"Go on with: {self.command}",
                file=sys.stderr,
            )
        sys.exit(STOPPED)


class NumberGuard(keras.callbacks.Callback):
    """Ends training at a loss or a weight that is not finite; warns of adaptation that diverges.

    Args:
        recipe: What is trained.
        state: Where the run stands.
        seed: Of the stream of episodes.
        ways: Classes that the queries are told apart by.
        checkpoints: Their folder, to name the last good one.
    """

    def __init__(
        self, recipe: Recipe, state: State, seed: int, ways: int, checkpoints: Path
    ) -> None:
        super().__init__()
        self.recipe, self.state, self.seed, self.checkpoints = recipe, state, seed, checkpoints
        adapts = recipe.algorithm in ("anil", "maml", "boil")
        # The loss of answers by chance; of a regression it is not known.
        self.chance = math.log(ways) if adapts and ways > 1 else math.inf

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Looks at the loss, averaged over the epoch so far."""
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            self._stop(f"The loss is {loss}", self.state.step + 1)
        if batch + 1 >= SETTLED and loss > FAR_ABOVE_CHANCE * self.chance:
            self._warn(loss)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Looks at the weights, which are about to be kept."""
        for weight in self.model.trainable_weights:
            if not np.isfinite(np.asarray(weight)).all():
                self._stop(f"The weights {weight.path} are not finite", self.state.step)

    def _warn(self, loss: float) -> None:
        _log.warning(
            "The queries' loss after adaptation is %.3g, where chance has %.3g: the inner loop "
            "diverges. Lower model.inner_lr (now %s) or model.inner_steps (%d), learn the rate "
            "(model.learn_inner_lr=true), or bound the features (model.backbone.cosine=true)",
            loss, self.chance, np.array2string(np.asarray(self.model.inner_lr), precision=3),
            self.recipe.model.inner_steps,
        )  # fmt: skip
        self.chance = math.inf  # once is enough

    def _stop(self, what: str, step: int) -> None:
        training = self.recipe.training
        kept = sorted(self.checkpoints.glob("step-*.keras"))
        raise ValueError(
            f"{what} at step {step}: its episodes are {(step - 1) * training.tasks} to "
            f"{step * training.tasks - 1} of the stream with seed {self.seed}. The last good "
            f"checkpoint: {kept[-1] if kept else 'none yet'}. Train into another --output with a "
            f"lower training.learning_rate (now {training.learning_rate:g}) or model.inner_lr "
            f"(now {self.recipe.model.inner_lr:g})"
        )


def resume_command(output: Path, data_dir: Path | None, strategy: str) -> str:
    """The command that goes on with a run."""
    words = ["anil", "train", "--recipe", str(output / "recipe.toml"), "--output", str(output)]
    words += ["--data-dir", str(data_dir)] if data_dir else []
    words += ["--strategy", strategy] if strategy != "none" else []
    return shlex.join([*words, "--resume"])


def scalar_writers(folder: Path) -> list[keras.callbacks.Callback]:
    """Keras's own callback, which writes the scalars of every epoch into a folder.

    Args:
        folder: For `tensorboard --logdir`; those of several runs compare below one folder.

    Returns:
        The callback, or nothing where TensorBoard is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        return []
    return [keras.callbacks.TensorBoard(folder, write_graph=False)]
