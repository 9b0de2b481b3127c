"""Adaptation of many small tasks at once, in NumPy: the Gram form of `anil_tf.inner_loop`.

Computes for T tasks what `adapt` in a bundle computes for one: a call of a runtime costs many times
what so little arithmetic does. Logits are `[T, N, M]`, classes before rows: the products of a step
are then wider, and sums over the few classes are sums of whole rows.
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
    targets = _one_hot(labels, bias.size)
    weights, rows_used, classes_used = _weigh_rows(targets, balanced)
    rates = np.float32(learning_rate) * weights
    rate_targets = targets * rates[:, np.newaxis]

    columns = features.transpose(0, 2, 1)
    # A copy, since NumPy takes the product of an array and its own transpose for a case of its own,
    # which takes twice as long. The bias is the weight of one more feature, which is always 1.
    gram = features.copy() @ columns
    gram += 1.0
    logits = kernel.T @ columns
    logits += bias[:, np.newaxis]

    softmax = _Softmax(logits)
    initial_loss = softmax.loss(targets, weights)
    coefficients, moved = np.zeros_like(logits), np.empty_like(logits)
    for _ in range(steps):
        update = softmax.residual(rate_targets, rates)
        logits -= np.matmul(update, gram, out=moved)
        coefficients -= update
    final_loss = softmax.loss(targets, weights)

    kernels = columns @ coefficients.transpose(0, 2, 1)
    kernels += kernel
    biases = np.einsum("tnm->tn", coefficients) + bias
    return Adaptations(kernels, biases, initial_loss, final_loss, rows_used, classes_used)


def _one_hot(labels: np.ndarray, ways: int) -> np.ndarray:
    """Targets float32 `[T, N, M]` of labels `[T, M]`; all zero for a row of padding."""
    return (labels[:, np.newaxis] == np.arange(ways)[:, np.newaxis]).astype(np.float32)


def _weigh_rows(targets: np.ndarray, balanced: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The weight of each row in the loss, float32 `[T, M]`; how many rows and classes count, `[T]`.

    The weights of a task sum to 1. A row of padding weighs 0.
    """
    counted = np.einsum("tnm->tm", targets)
    rows_of_class = np.einsum("tnm->tn", targets)
    rows_used = counted.sum(axis=1, keepdims=True)
    classes_used = np.count_nonzero(rows_of_class, axis=1, keepdims=True)
    parts = rows_used  # a row weighs 1 / parts
    if balanced:
        parts = classes_used * np.einsum("tn,tnm->tm", rows_of_class, targets)
    weights = (counted / np.maximum(parts, 1)).astype(np.float32)
    return weights, rows_used[:, 0].astype(np.int32), classes_used[:, 0].astype(np.int32)


class _Softmax:
    """Softmax over the classes of logits, in buffers that every call uses again.

    Args:
        logits: float32 `[T, N, M]`. The caller changes them in place, from one call to the next.
    """

    def __init__(self, logits: np.ndarray) -> None:
        tasks, _, rows = logits.shape
        self._logits = logits
        self._powers = np.empty_like(logits)
        self._sums = np.empty((tasks, rows), np.float32)

    def residual(self, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """`weights * softmax - targets`, `[T, N, M]`, in a buffer that the next call overwrites.

        Args:
            targets: One-hot labels times the weights, `[T, N, M]`.
            weights: Weight of each row, `[T, M]`.
        """
        self._exponentiate()
        residual = self._powers  # not a copy: the exponentials are needed no more
        residual *= (weights / self._sums)[:, np.newaxis]
        residual -= targets
        return residual

    def loss(self, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Weighted cross-entropy `[T]` of one-hot targets `[T, N, M]` with row weights `[T, M]`."""
        shift = self._exponentiate()
        losses = np.log(self._sums) - np.einsum("tnm,tnm->tm", self._logits, targets)
        if shift is not None:
            losses += shift
        return np.einsum("tm,tm->t", weights, losses)

    def _exponentiate(self) -> np.ndarray | None:
        """Fills `_powers` and `_sums`.

        Returns:
            What was subtracted from the logits before, `[T, M]`; None if nothing was, as the
            exponentials of most tasks are well within float32.
        """
        with np.errstate(over="ignore"):  # the sums show it
            np.exp(self._logits, out=self._powers)
        np.einsum("tnm->tm", self._powers, out=self._sums)
        if self._sums.min() > SMALLEST_SUM and self._sums.max() < LARGEST_SUM:  # false for NaN too
            return None
        shift = self._logits.max(axis=1)
        np.exp(self._logits - shift[:, np.newaxis], out=self._powers)
        np.einsum("tnm->tm", self._powers, out=self._sums)
        return shift
