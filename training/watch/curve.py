"""The training curve: losses, metrics, rates and gradients every few steps.

Keras reports running means since the start of an epoch. A point of the curve is the mean over the
steps since the last point.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from anil_tf.episodic import EpisodicModel
from anil_tf.training.checkpoints import TrainingRun
from anil_tf.training.watch.tensorboard import is_alone

POINTS = 200  # of a whole run, or as many as it has steps
Point = dict[str, float]


class Curve(keras.callbacks.Callback):
    """Keeps a point of the curve every few steps in the run's `curve.csv`.

    Args:
        run: Run in training.
        steps_per_epoch: Number of steps in an epoch.
        total: Number of steps of the whole run.
        gradient_norm: Norm of the last gradients, from `watch_gradients`; None if it is not known.
        show: Functions that get each new point.
    """

    def __init__(
        self,
        run: TrainingRun,
        steps_per_epoch: int,
        total: int,
        gradient_norm: tf.Variable | None = None,
        show: Sequence[Callable[[Point], None]] = (),
    ) -> None:
        super().__init__()
        self.run, self.steps_per_epoch = run, steps_per_epoch
        self.every = max(1, min(steps_per_epoch, total // POINTS))
        self.gradient_norm, self.show = gradient_norm, show
        known = run.directory.read_curve()
        rows = zip(*known.values(), strict=True)
        points = (dict(zip(known, map(float, row), strict=True)) for row in rows)
        # A run is resumed from a checkpoint, which may be older than the last point.
        self.points = [point for point in points if point["step"] <= run.state.step]
        self._begun = False
        self._means: dict[str, float] | None = None
        self._done = 0
        self._step = run.state.step

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Adds a point after every few steps."""
        means = {name: float(value) for name, value in (logs or {}).items()}
        step, before, self._step = self.run.state.step, self._step, self.run.state.step
        done = (step - 1) % self.steps_per_epoch + 1
        if before % self.steps_per_epoch == 0:
            self._means, self._done = dict.fromkeys(means, 0.0), 0
        if self._means is None:  # resumed within an epoch: the means so far are of all its steps
            self._means, self._done = means, done
        elif step // self.every > before // self.every:
            steps = done - self._done
            recent = {
                name: (value * done - self._means.get(name, 0.0) * self._done) / steps
                for name, value in means.items()
            }
            self._means, self._done = means, done
            self._add({"step": float(step), **recent, **self._rates()})

    def _rates(self) -> Point:
        rates = {
            "inner_lr": float(np.mean(np.asarray(self.model.inner_lr))),
            "learning_rate": float(np.asarray(self.model.optimizer.learning_rate)),
        }
        if self.gradient_norm is not None:
            rates["gradient_norm"] = float(self.gradient_norm.numpy())
        return rates

    def _add(self, point: Point) -> None:
        self.points.append(point)
        if self.run.writes and self._begun:
            self.run.directory.append_to_curve(point)
        elif self.run.writes:
            self.run.directory.write_curve(self.points)
            self._begun = True
        for show in self.show:
            show(point)


def watch_gradients(model: EpisodicModel) -> tf.Variable | None:
    """Makes a model keep the global norm of its outer gradients.

    Returns:
        The norm after the last step; None for a model of several replicas, each of which has only
        the gradients of its own tasks.
    """
    if not is_alone(model):
        return None
    norm = tf.Variable(0.0, trainable=False)
    compute = model.outer_gradients

    def watched(*arguments: Any, **options: Any) -> tuple[Any, ...]:
        gradients, *others = compute(*arguments, **options)
        norm.assign(tf.linalg.global_norm(gradients) / model.optimizer.scale_loss(tf.ones(())))
        return gradients, *others

    model.outer_gradients = watched  # type: ignore[method-assign]
    return norm
