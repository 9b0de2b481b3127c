"""What `fit` and `evaluate` check of their data, and how they draw new episodes in each epoch."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import keras
import numpy as np
import tensorflow as tf

INPUTS = ("support_x", "support_y", "query_x")
IMAGE_CLASSES = "image_classes"  # for a model that classifies the images in training too
# How the message about labels begins and ends; TensorFlow puts more around it.
_START, _END = "Labels are", "Number the classes of a task from 0; padding rows take -1"

DrawOn = Literal["auto", "host", "device"]


@dataclass(frozen=True)
class Plan:
    """What a sampler's data set is made of, so that `fit` can draw its episodes in another way.

    Args:
        sampler: Sampler of the episodes.
        batches: Number of batches.
        tasks: Number of episodes per batch.
        start: Index of the first episode.
        draw_on: Where `fit` draws the episodes.
    """

    sampler: Any
    batches: int
    tasks: int
    start: int
    draw_on: DrawOn

    def __post_init__(self) -> None:
        if self.draw_on not in get_args(DrawOn):
            raise ValueError(
                f"draw_on must be one of {get_args(DrawOn)}. Received: {self.draw_on!r}"
            )

    @property
    def episodes(self) -> int:
        """Number of episodes: the distance from one epoch to the next."""
        return self.batches * self.tasks

    def indices(self, moved: tf.Variable | None = None) -> tf.data.Dataset:
        """The index of the first episode of each batch, int64 scalars.

        Args:
            moved: Variable that is added to all indices when the data set is read.
        """
        # A known range: with a generator of unknown length Keras would run a phantom step in each
        # epoch.
        indices = tf.data.Dataset.range(self.start, self.start + self.episodes, self.tasks)
        return indices if moved is None else indices.map(lambda index: index + moved)

    def draw(self, first: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """The batch that begins with an episode."""
        episodes = self.sampler.draw_in_graph(first + tf.range(self.tasks, dtype=tf.int64))
        inputs = {name: episodes[name] for name in (*INPUTS, IMAGE_CLASSES) if name in episodes}
        return inputs, episodes["query_y"]

    def dataset(self, moved: tf.Variable | None = None) -> tf.data.Dataset:
        """The batches, drawn on the host. What is derived from it (`map`, `take`) has no plan."""
        draw = tf.autograph.experimental.do_not_convert(self.draw)
        drawn = self.indices(moved).map(
            draw, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        drawn = drawn.prefetch(tf.data.AUTOTUNE)
        drawn.plan = self
        return drawn

    def endless(self) -> "Plan":
        """This plan without an end, for a reader that is told its number of batches."""
        return replace(self, batches=(2**62 - self.start) // self.tasks)

    def draws_like(self, other: "Plan") -> bool:
        """Whether the same function draws the batches of both plans."""
        return self.sampler is other.sampler and self.tasks == other.tasks

    def on_device(self) -> "Plan | None":
        """The same plan with a sampler whose images are in the device's memory, if they fit."""
        sampler = self.sampler.on_device()
        return None if sampler is None else replace(self, sampler=sampler)


def plan_of(dataset: Any) -> Plan | None:
    """The plan of a sampler's data set; None for other data."""
    return getattr(dataset, "plan", None) if isinstance(dataset, tf.data.Dataset) else None


class NewEpisodes(keras.callbacks.Callback):
    """Moves a plan's data set to the episodes of the epoch that begins.

    The epoch's number alone decides its episodes, so a run that resumes at an epoch continues with
    the episodes of an uninterrupted run.

    Args:
        plan: Plan of an epoch. The data set adds `moved` to its indices.
        runs_on: Whether the data set goes on from one epoch to the next.
    """

    def __init__(self, plan: Plan, runs_on: bool = False) -> None:
        super().__init__()
        self._episodes, self._runs_on, self._begun = plan.episodes, runs_on, False
        self.moved = tf.Variable(0, dtype=tf.int64, trainable=False)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Moves the data set before `fit` begins to read it."""
        if not (self._runs_on and self._begun):
            self.moved.assign(epoch * self._episodes)
        self._begun = True


def check_kind(x: Any, method: str) -> None:
    """Rejects arrays of single images, which are no episodes.

    Raises:
        ValueError: `x` is an array or a tensor.
    """
    if isinstance(x, np.ndarray | tf.Tensor | list):
        raise ValueError(
            f"{method} takes episodes, not images and labels: a data set such as "
            "EpisodeSampler(...).dataset(batches, tasks), or a dict of support_x, support_y and "
            f"query_x with query_y. Received: x of type {type(x).__name__}"
        )
    if isinstance(x, dict) and not set(INPUTS) <= set(x):
        raise ValueError(f"{method} takes a dict with {', '.join(INPUTS)}. Received: {sorted(x)}")


def check_labels(x: Any, y: Any, ways: int) -> Any:
    """Checks the labels of a classification where the data is read, on the CPU.

    A label outside `0..ways-1` would count as padding and be left out without a word. So labels
    from `ways` on are an error, and so is a task of whose rows all are padding.

    Args:
        x: A data set of episodes, or a dict of arrays. Other data is not checked.
        y: Labels `[T, Q]` that go with a dict.
        ways: Number of classes.

    Returns:
        `x`; a data set raises an error that `labels_in_one_line` translates.

    Raises:
        ValueError: The arrays hold such labels.
    """
    if isinstance(x, dict):
        for name, labels in (("support_y", x["support_y"]), ("query_y", y)):
            if labels is not None:
                with labels_in_one_line():
                    _assert_labels(tf.convert_to_tensor(labels), name, ways)
        return x
    if not isinstance(x, tf.data.Dataset) or not isinstance(x.element_spec, tuple):
        return x

    def check(*element: Any) -> Any:
        assertions = _assert_labels(element[0]["support_y"], "support_y", ways)
        assertions += _assert_labels(element[1], "query_y", ways)
        with tf.control_dependencies([each for each in assertions if each is not None]):
            return tf.nest.map_structure(tf.identity, element)

    return x.map(tf.autograph.experimental.do_not_convert(check))


def check_sampler(sampler: Any, ways: int) -> None:
    """Checks the labels of a sampler whose episodes are drawn where nothing can be checked.

    Raises:
        ValueError: There are more labels than ways.
    """
    if sampler.labels > ways:
        raise ValueError(
            f"{_START} 0 to {ways - 1} with ways={ways}. Received: a sampler with "
            f"{sampler.labels} labels. {_END}"
        )


@contextmanager
def labels_in_one_line() -> Iterator[None]:
    """Context manager that turns the error of `check_labels` into one line.

    Raises:
        ValueError: Labels of a task are not as they should be.
    """
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        start, end = (error.message.find(mark) for mark in (_START, _END))
        if min(start, end) < 0:
            raise
        raise ValueError(error.message[start : end + len(_END)]) from error


def _assert_labels(labels: tf.Tensor, name: str, ways: int) -> list[Any]:
    if labels.shape.rank != 2 or labels.shape[1] == 0:  # other checks report a wrong shape
        return []
    labels = tf.cast(labels, tf.int32)
    largest, smallest = tf.reduce_max(labels), tf.reduce_min(labels)
    used = tf.reduce_any((labels >= 0) & (labels < ways), axis=1)
    message = tf.strings.format(
        f"{_START} 0 to {ways - 1} with ways={ways}. Received: {name} from {{}} to {{}}, or a task "
        f"with padding only. {_END}",
        (smallest, largest),
    )
    return [tf.debugging.Assert((largest < ways) & tf.reduce_all(used), [message])]
