"""Adaptation of many small tasks at once, in NumPy: the Gram form of `anil_tf.inner_loop`.

Computes for T tasks what `adapt` in a bundle computes for one: a call of a runtime costs many times
what so little arithmetic does. Logits are `[T, N, M]`, classes before rows: the products of a step
are then wider, and sums over the few classes are of whole rows.
"""

from typing import NamedTuple

import numpy as np

# Sums of exponentials outside are near the limits of float32: logits are shifted first.
SMALLEST_SUM, LARGEST_SUM = 1e-30, 1e30


class Adaptations(NamedTuple):
    """T adapted heads: `runtime.Adaptation` with a leading axis of tasks.

    `kernel` is float32 `[T, D, N]`, `bias` `[T, N]`, the losses `[T]`, `rows_used` and
    `classes_used`, the classes that have rows, int32 `[T]`.
    """

    kernel: np.ndarray
    bias: np.ndarray
    initial_loss: np.ndarray
    final_loss: np.ndarray
    rows_used: np.ndarray
    classes_used: np.ndarray


def adapt_tasks(
    features: np.ndarray,
    labels: np.ndarray,
    kernel: np.ndarray,
    bias: np.ndarray,
    learning_rate: float,
    steps: int,
    balanced: bool = True,
) -> Adaptations:
    """Fit a head to each of many support sets by gradient descent, from the same initial head.

    Args:
        features: float32 `[T, M, D]`, finite.
        labels: int32 `[T, M]`; a row with a label outside `0..N-1` is padding and left out, and its
            features must be zero.
        kernel: float32 `[D, N]`.
        bias: float32 `[N]`.
        learning_rate: Rate of the inner loop.
        steps: Number of updates.
        balanced: Whether every class counts alike (`Manifest.balanced`) or every row does.

    Returns:
        The heads. That of a task without a row is the initial one, with losses of zero.
    """
    tasks, rows, _ = features.shape
    ways = bias.size
    targets = (labels[:, np.newaxis] == np.arange(ways)[:, np.newaxis]).astype(np.float32)
    counted = np.einsum("tnm->tm", targets)
    rows_used = counted.sum(axis=1, keepdims=True)
    rows_of_class = np.einsum("tnm->tn", targets)
    classes_used = np.count_nonzero(rows_of_class, axis=1, keepdims=True)
    parts = rows_used  # a row weighs 1 / parts
    if balanced:
        parts = classes_used * np.einsum("tn,tnm->tm", rows_of_class, targets)
    weights = (counted / np.maximum(parts, 1)).astype(np.float32)
    rates = np.float32(learning_rate) * weights

    columns = features.transpose(0, 2, 1)
    # A copy, since NumPy takes the product of an array and its own transpose for a case of its own,
    # which takes twice as long. The bias is the weight of one more feature, which is always 1.
    gram = features.copy() @ columns
    gram += 1.0
    logits = kernel.T @ columns
    logits += bias[:, np.newaxis]

    powers, moved = np.empty_like(logits), np.empty_like(logits)
    sums = np.empty((tasks, rows), np.float32)

    def exponentiate() -> np.ndarray | None:
        """Fills `powers` and `sums`; returns what it took off the logits, if anything."""
        with np.errstate(over="ignore"):  # then the sums say so
            np.exp(logits, out=powers)
        np.einsum("tnm->tm", powers, out=sums)
        if sums.min() > SMALLEST_SUM and sums.max() < LARGEST_SUM:  # false for NaN too
            return None
        shift = logits.max(axis=1)
        np.exp(logits - shift[:, np.newaxis], out=powers)
        np.einsum("tnm->tm", powers, out=sums)
        return shift

    def loss() -> np.ndarray:
        shift = exponentiate()
        losses = np.log(sums) - np.einsum("tnm,tnm->tm", logits, targets)
        if shift is not None:
            losses += shift
        return np.einsum("tm,tm->t", weights, losses)

    initial_loss = loss()
    coefficients = np.zeros_like(logits)
    rate_targets = targets * rates[:, np.newaxis]
    for _ in range(steps):
        exponentiate()
        update = powers
        update *= (rates / sums)[:, np.newaxis]
        update -= rate_targets
        logits -= np.matmul(update, gram, out=moved)
        coefficients -= update
    final_loss = loss()
    kernels = columns @ coefficients.transpose(0, 2, 1)
    kernels += kernel
    biases = np.einsum("tnm->tn", coefficients) + bias
    used = (count[:, 0].astype(np.int32) for count in (rows_used, classes_used))
    return Adaptations(kernels, biases, initial_loss, final_loss, *used)
