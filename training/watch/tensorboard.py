"""What TensorBoard shows of a run, where it is installed."""

import importlib.util
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from anil_tf.datasets.images import as_pictures
from anil_tf.episodes import EpisodeSampler, SinusoidSampler
from anil_tf.training.checkpoints import TrainingRun
from anil_tf.training.recipe import Recipe

SHOWN_WAYS, SHOWN_SHOTS, SHOWN_QUERIES = 5, 3, 5
GREY, GREEN, RED = (140, 149, 159), (26, 127, 55), (207, 34, 46)


def make_tensorboard(
    run: TrainingRun, recipe: Recipe, sampler: EpisodeSampler | SinusoidSampler
) -> "TensorBoard | None":
    """The callback; None where TensorBoard is not installed or this process writes no files."""
    if not run.writes or importlib.util.find_spec("tensorboard") is None:
        return None
    return TensorBoard(run, recipe, sampler)


class TensorBoard(keras.callbacks.Callback):
    """Writes scalars of the curve and of the epochs, a picture of an episode, and the recipe.

    `keras.callbacks.TensorBoard` writes running means of an epoch only, with the number of the
    epoch. Here training and validation share charts over the outer steps.

    Args:
        run: Run in training.
        recipe: Recipe of the run; its keys become the hyperparameters.
        sampler: Validation episodes; the first one is drawn.
    """

    def __init__(
        self, run: TrainingRun, recipe: Recipe, sampler: EpisodeSampler | SinusoidSampler
    ) -> None:
        super().__init__()
        self.run, self.recipe, self.sampler = run, recipe, sampler
        self._writers: dict[str, tf.summary.SummaryWriter] = {}

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Writes the recipe, once."""
        if not self._writers:
            from tensorboard.plugins.hparams import api

            with self._writer("train").as_default(step=self.run.state.step):
                api.hparams(flatten(self.recipe.model_dump()))

    def show_point(self, point: dict[str, float]) -> None:
        """Writes a point of the training curve."""
        self._write("train", {**point}, int(point["step"]))

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Writes the epoch's metrics and the picture."""
        logs = logs or {}
        validation = {
            name.removeprefix("val_"): value
            for name, value in logs.items()
            if name.startswith("val_")
        }
        training = {name: value for name, value in logs.items() if not name.startswith("val_")}
        for part, figures in (("train", training), ("validation", validation)):
            self._write(part, {f"epoch_{name}": value for name, value in figures.items()}, epoch)
        self._write("validation", validation, self.run.state.step)
        if isinstance(self.sampler, EpisodeSampler) and is_alone(self.model):
            with self._writer("validation").as_default(step=self.run.state.step):
                tf.summary.image("episode", self._draw(self.sampler)[np.newaxis])
        for writer in self._writers.values():
            writer.flush()

    def _draw(self, sampler: EpisodeSampler) -> np.ndarray:
        # As many episodes as a batch of the validation: such a draw is traced already.
        first = tf.range(self.recipe.training.tasks, dtype=tf.int64)
        drawn = sampler.draw_in_graph(first)
        episode = {name: each[0].numpy() for name, each in drawn.items()}
        names = ("support_x", "support_y", "query_x")
        batch = {name: tf.constant(episode[name][np.newaxis]) for name in names}
        logits = self.model.adapt_and_predict(batch, training=False).after[0]
        answers = np.argmax(logits, axis=-1)
        shown = {name: as_pictures(episode[name]) for name in ("support_x", "query_x")}
        return tile(episode | shown, answers, len(np.unique(episode["support_y"])))

    def _write(self, part: str, figures: dict[str, Any], step: int) -> None:
        with self._writer(part).as_default(step=step):
            for name, value in figures.items():
                if name != "step":
                    tf.summary.scalar(name, float(value))

    def _writer(self, part: str) -> tf.summary.SummaryWriter:
        if part not in self._writers:
            folder: Path = self.run.directory.tensorboard / part
            self._writers[part] = tf.summary.create_file_writer(str(folder))
        return self._writers[part]


def is_alone(model: keras.Model) -> bool:
    """Whether the model trains without a strategy, so that one process may call it by itself."""
    return type(model.distribute_strategy) is type(tf.distribute.get_strategy())


def flatten(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The keys of nested tables as `model.inner_lr`; lists become text, and None is left out."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        elif value is not None:
            plain = isinstance(value, bool | int | float | str)
            flat[f"{prefix}{key}"] = value if plain else str(value)
    return flat


def tile(episode: dict[str, np.ndarray], answers: np.ndarray, ways: int) -> np.ndarray:
    """An episode as one picture, one row per class.

    The support images are on the left, framed grey. The queries are framed green where the
    prediction is right, red where it is wrong.

    Args:
        episode: An episode whose images are uint8 `[n, H, W, C]`.
        answers: Predicted class of each query, integers `[Q]`.
        ways: Number of classes.

    Returns:
        uint8 `[height, width, 3]`.
    """
    rows = []
    for label in range(min(ways, SHOWN_WAYS)):
        support = episode["support_x"][episode["support_y"] == label][:SHOWN_SHOTS]
        mine = np.flatnonzero(episode["query_y"] == label)[:SHOWN_QUERIES]
        framed = [_frame(image, GREY) for image in support]
        framed += [
            _frame(episode["query_x"][index], GREEN if answers[index] == label else RED)
            for index in mine
        ]
        rows.append(np.concatenate(framed, axis=1))
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows]
    return np.concatenate(padded, axis=0)


def _frame(image: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    height, width = image.shape[:2]
    edge = max(2, width // 16)
    framed = np.empty((height + 2 * edge, width + 2 * edge, 3), np.uint8)
    framed[:] = color
    framed[edge:-edge, edge:-edge] = image  # a grey image fills all three channels
    return framed
