"""Strategies of `anil train`: one device, all devices of a machine, or those of a cluster."""

import contextlib
import json
import os
import re
from collections.abc import Iterator

import tensorflow as tf

from anil_tf.distribution import in_cluster

# What TensorFlow raises when a worker no longer responds.
_GONE = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
    tf.errors.UnknownError,
)


def make_strategy(name: str) -> tf.distribute.Strategy:
    """Makes a strategy by its name.

    Args:
        name: `"none"` for one device; `"mirrored"` for the GPUs of this machine, or its logical
            CPUs; `"multiworker"` for the cluster that `TF_CONFIG` describes, which must be made
            before any other use of TensorFlow and waits for all workers.

    Raises:
        ValueError: The name is unknown, or `TF_CONFIG` is missing or not what TensorFlow documents.
    """
    if name == "none":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    if name != "multiworker":
        raise ValueError(
            f"strategy must be 'none', 'mirrored' or 'multiworker'. Received: {name!r}"
        )
    _check_tf_config(os.environ.get("TF_CONFIG"))
    return tf.distribute.MultiWorkerMirroredStrategy()


def _check_tf_config(text: str | None) -> None:
    example = (
        '{"cluster": {"worker": ["host1:port", "host2:port"]}, '
        '"task": {"type": "worker", "index": 0}}'
    )
    if not text:
        raise ValueError(f"--strategy multiworker needs TF_CONFIG in the environment: {example}")
    try:
        config = json.loads(text)
        task = config["task"]
        fits = 0 <= int(task["index"]) < len(config["cluster"][task["type"]])
    except (ValueError, KeyError, TypeError):
        fits = False
    if not fits:
        raise ValueError(f"TF_CONFIG must name the cluster and this task: {example}. It is: {text}")


def check_share(tasks: int, strategy: tf.distribute.Strategy) -> None:
    """Checks that the replicas can share a meta-batch equally.

    Raises:
        ValueError: The number of tasks is not a multiple of the number of replicas.
    """
    replicas = strategy.num_replicas_in_sync
    if tasks % replicas:
        raise ValueError(
            f"training.tasks must be a multiple of the {replicas} replicas, which share a "
            f"meta-batch equally. Received: training.tasks={tasks}"
        )


def check_agreement(step: int, strategy: tf.distribute.Strategy) -> None:
    """Checks that all workers of a cluster have reached the same step.

    Raises:
        ValueError: The workers do not see the same checkpoints.
    """
    if not in_cluster(strategy):
        return
    value = tf.constant(float(step), tf.float64)
    mean = float(strategy.reduce(tf.distribute.ReduceOp.MEAN, value, axis=None))
    if mean != step:
        raise ValueError(
            f"This worker found a checkpoint of step {step}, others did not: --output must be a "
            "folder that all workers share"
        )


@contextlib.contextmanager
def watching_workers(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Context manager that reports the failure of another worker in one line.

    Raises:
        ConnectionError: A worker of the cluster no longer responds.
    """
    try:
        yield
    except _GONE as error:
        if not in_cluster(strategy):
            raise
        reason = re.sub(r"\{\{.*?\}\} ?", "", str(error.message).splitlines()[0])[:200]
        raise ConnectionError(
            "Another worker is gone, so this one stops. Start all of them again with "
            f"--resume to continue from the last checkpoint. ({reason})"
        ) from error
