"""What `fit` and `evaluate` check of their data, and how they draw new episodes in each epoch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

INPUTS = ("support_x", "support_y", "query_x")
# How the message about labels begins and ends; TensorFlow puts more around it.
_START, _END = "Labels are", "Number the classes of a task from 0; padding rows take -1"

# A data set of a sampler's episodes whose index is moved by a scalar int64 variable.
Redraw = Callable[[tf.Variable], tf.data.Dataset]


def remember_redraw(dataset: tf.data.Dataset, redraw: Redraw, episodes: int) -> tf.data.Dataset:
    """Marks a sampler's data set, so that `fit` can draw new episodes in each epoch.

    Args:
        dataset: Data set to mark. What is derived from it (`map`, `take`) carries no mark.
        redraw: Function that returns the data set with its episode index moved by a variable.
        episodes: Number of episodes of the data set: the distance from one epoch to the next.

    Returns:
        The same data set.
    """
    dataset.redraw_episodes = redraw, episodes
    return dataset


class NewEpisodes(keras.callbacks.Callback):
    """Moves a marked data set to the episodes of the epoch that begins.

    The epoch's number alone decides its episodes, so a run that resumes at an epoch continues with
    the episodes of an uninterrupted run.

    Args:
        dataset: A data set marked by `remember_redraw`.
    """

    def __init__(self, dataset: tf.data.Dataset) -> None:
        super().__init__()
        redraw, self._episodes = dataset.redraw_episodes
        self._moved = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.dataset = redraw(self._moved)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Moves the data set before `fit` begins to read it."""
        self._moved.assign(epoch * self._episodes)


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

    return x.map(check)


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
