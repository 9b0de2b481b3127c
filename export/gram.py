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
    counted = (labels >= 0) & (labels < ways)
    rows_used = counted.sum(axis=1)
    weights = (counted / np.maximum(rows_used, 1)[:, np.newaxis]).astype(np.float32)
    own = np.arange(0, labels.size * ways, ways) + np.where(counted, labels, 0).ravel()
    rate_weights = np.repeat(np.float32(learning_rate) * weights, ways).reshape(tasks, rows, ways)
    rate_targets = np.zeros_like(rate_weights)
    rate_targets.ravel()[own] = rate_weights.ravel()[own]

    # The bias is the weight of one more feature, always 1. With the head as further rows, a single
    # product gives the Gram matrices and the logits.
    joined = np.empty((tasks, rows + ways, size + 1), np.float32)
    joined[:, :rows, :size] = features
    joined[:, :rows, size] = 1.0
    joined[:, rows:] = np.vstack([kernel, bias]).T
    support = joined[:, :rows]
    products = support @ joined.transpose(0, 2, 1)
    gram, logits = products[..., :rows], products[..., rows:].copy()

    ones = np.ones((ways, ways), np.float32)
    powers, moved = np.empty_like(logits), np.empty_like(logits)
    sums = np.empty((tasks * rows, ways), np.float32)
    flat_powers = powers.reshape(sums.shape)

    def exponentiate() -> np.ndarray | None:
        """Fills `powers` and `sums`; returns what it took off the logits, if anything."""
        shift = None
        # Put so that it is taken for NaN too.
        if not (logits.max() <= LARGE_LOGIT and logits.min() >= -LARGE_LOGIT):
            shift = logits.max(axis=-1, keepdims=True)
        np.exp(logits if shift is None else logits - shift, out=powers)
        np.matmul(flat_powers, ones, out=sums)
        return shift

    def loss() -> np.ndarray:
        shift = exponentiate()
        losses = np.log(sums[:, 0]) - logits.ravel()[own]
        if shift is not None:
            losses += shift.ravel()
        return (weights * losses.reshape(tasks, rows)).sum(axis=1)

    initial_loss = loss()
    coefficients = np.zeros_like(logits)
    for _ in range(steps):
        exponentiate()
        update = powers
        flat_powers /= sums
        update *= rate_weights
        update -= rate_targets
        logits -= np.matmul(gram, update, out=moved)
        coefficients -= update
    heads = support.transpose(0, 2, 1) @ coefficients
    return Adaptations(
        kernel + heads[:, :size],
        bias + heads[:, size],
        initial_loss,
        loss(),
        rows_used.astype(np.int32),
    )
