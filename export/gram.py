"""Adaptation of many small tasks at once, in NumPy: the Gram form of `anil_tf.inner_loop`.

What `adapt` in a bundle computes for one task, with the same padding rule, for T of them: a call of
a runtime costs many times what so little arithmetic does. Sums over the few classes are products
with a matrix of ones, since NumPy reduces a short last axis slowly.
"""

from typing import NamedTuple

import numpy as np

# Beyond this, exp of float32 is near its limits, and logits are shifted first.
LARGE_LOGIT = 60.0


class Adaptations(NamedTuple):
    """T adapted heads: `runtime.Adaptation` with a leading axis of tasks.

    `kernel` is float32 `[T, D, N]`, `bias` `[T, N]`, the losses `[T]`, `rows_used` int32 `[T]`.
    """

    kernel: np.ndarray
    bias: np.ndarray
    initial_loss: np.ndarray
    final_loss: np.ndarray
    rows_used: np.ndarray


def adapt_tasks(
    features: np.ndarray,
    labels: np.ndarray,
    kernel: np.ndarray,
    bias: np.ndarray,
    learning_rate: float,
    steps: int,
) -> Adaptations:
    """Fit a head to each of many support sets by gradient descent, from the same initial head.

    Args:
        features: float32 `[T, M, D]`, finite.
        labels: int32 `[T, M]`; a row with a label outside `0..N-1` is padding and left out, and its
            features must be zero.
        kernel: float32 `[D, N]`.
        bias: float32 `[N]`.
        learning_rate: Rate of the inner loop.
        steps: How many updates.

    Returns:
        The heads. That of a task without a row is the initial one, with losses of zero.
    """
    tasks, rows, size = features.shape
    ways = bias.size
    ones = np.ones((ways, ways), np.float32)
    targets = (labels[..., np.newaxis] == np.arange(ways)).astype(np.float32)
    counted = (targets.reshape(-1, ways) @ ones).reshape(targets.shape)
    rows_used = counted[..., 0].sum(axis=1)
    weights = counted / np.maximum(rows_used, 1)[:, np.newaxis, np.newaxis]
    rate_weights = np.float32(learning_rate) * weights
    rate_targets = rate_weights * targets

    def exponentials(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The logits' exp, its sums over classes, and what was taken off the logits before."""
        shift = np.zeros((), np.float32)
        if not (logits.max() <= LARGE_LOGIT and logits.min() >= -LARGE_LOGIT):  # so for NaN too
            shift = logits.max(axis=-1, keepdims=True)
        powers = np.exp(logits - shift)
        return powers, (powers.reshape(-1, ways) @ ones).reshape(powers.shape), shift

    def loss(logits: np.ndarray) -> np.ndarray:
        _, sums, shift = exponentials(logits)
        return (weights * targets * (np.log(sums) + shift - logits)).sum(axis=(1, 2))

    gram = features @ features.transpose(0, 2, 1)
    gram += 1.0
    logits = (features.reshape(-1, size) @ kernel + bias).reshape(tasks, rows, ways)
    initial_loss = loss(logits)
    coefficients = np.zeros_like(logits)
    for _ in range(steps):
        update, sums, _ = exponentials(logits)
        update /= sums
        update *= rate_weights
        update -= rate_targets
        logits -= gram @ update
        coefficients -= update
    return Adaptations(
        kernel + features.transpose(0, 2, 1) @ coefficients,
        bias + coefficients.sum(axis=1),
        initial_loss,
        loss(logits),
        rows_used.astype(np.int32),
    )
