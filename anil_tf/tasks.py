"""A batch of tasks: a function applied to each of them, and their sizes."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

FLOATS = tf.TensorSpec(None, tf.float32)


def map_tasks(function: Callable[..., Any], *tensors: tf.Tensor, returns: Any = FLOATS) -> Any:
    """Applies a function to each task's slice of the tensors and stacks the results.

    A known number of tasks is unrolled into the graph; an unknown number becomes a loop.

    Args:
        function: Function of the slices that returns what `returns` describes.
        tensors: Tensors `[T, ...]`, one slice per task.
        returns: Specification of the function's result, or a tuple of specifications.
    """
    tasks = tensors[0].shape[0]
    if tasks is None:
        return tf.map_fn(lambda slices: function(*slices), tensors, fn_output_signature=returns)
    results = [function(*(tensor[task] for tensor in tensors)) for task in range(tasks)]
    return tf.nest.map_structure(lambda *slices: tf.stack(slices), *results)


def sizes(tensor: tf.Tensor, axes: int) -> list[int | tf.Tensor]:
    """The first sizes of a tensor: Python ints where they are known, tensors where not."""
    dynamic = tf.shape(tensor)
    return [
        dynamic[axis] if tensor.shape[axis] is None else tensor.shape[axis] for axis in range(axes)
    ]
