"""Adaptation, prediction and similarity in NumPy, in float64, written from the paper's equations.

Every runtime is compared with it. It shares no code and no algebra with the exported graphs:
it moves the kernel and the bias along their own gradients, one step after another.

Source: Raghu et al. 2020, https://arxiv.org/abs/1909.09157, section 4.1.
"""

import numpy as np

from anil_tf.acceptance import UNDIVIDED, Temperature
from anil_tf.export.runtime.base import Adaptation


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """The logarithm of the softmax over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def adapt(
    features: np.ndarray,
    labels: np.ndarray,
    kernel: np.ndarray,
    bias: np.ndarray,
    learning_rate: float,
    steps: int,
    dtype: type[np.floating] = np.float64,
    balanced: bool = True,
) -> Adaptation:
    """Gradient descent on the support loss: the mean over classes of each class's cross-entropy.

    Args:
        features: `[M, D]`.
        labels: Integers `[M]`; rows with a label outside `0..N-1` are left out.
        kernel: `[D, N]`.
        bias: `[N]`.
        learning_rate: Rate of the inner loop.
        steps: Number of updates.
        dtype: Precision to compute in; float32 shows what that precision alone costs.
        balanced: Whether every class counts alike (`Manifest.balanced`) or every row does.

    Returns:
        The adapted head.
    """
    kernel, bias = kernel.astype(dtype), bias.astype(dtype)
    counted = (labels >= 0) & (labels < bias.size)
    x, y = features[counted].astype(dtype), labels[counted]
    if not len(y):
        return Adaptation(kernel, bias, 0.0, 0.0, 0)

    _, class_of_row, rows = np.unique(y, return_inverse=True, return_counts=True)
    weights = 1 / (len(rows) * rows[class_of_row]) if balanced else np.full(len(y), 1 / len(y))
    weighted = weights.astype(dtype)[:, np.newaxis]
    one_hot = np.eye(bias.size, dtype=dtype)[y]

    def loss() -> float:
        return float(-(weighted * one_hot * log_softmax(x @ kernel + bias)).sum())

    initial_loss = loss()
    for _ in range(steps):
        residual = weighted * (np.exp(log_softmax(x @ kernel + bias)) - one_hot)
        kernel = kernel - learning_rate * x.T @ residual
        bias = bias - learning_rate * residual.sum(axis=0)
    return Adaptation(kernel, bias, initial_loss, loss(), len(y))


def predict(
    features: np.ndarray,
    kernel: np.ndarray,
    bias: np.ndarray,
    dtype: type[np.floating] = np.float64,
    temperature: Temperature = UNDIVIDED,
) -> tuple[np.ndarray, np.ndarray]:
    """Logits and probabilities `[B, N]` of features `[B, D]` under a head."""
    logits = features.astype(dtype) @ kernel.astype(dtype) + bias.astype(dtype)
    return logits, np.exp(log_softmax(logits / dtype(temperature.of(bias.size))))


def similarity(
    features: np.ndarray, support_features: np.ndarray, support_labels: np.ndarray, ways: int
) -> np.ndarray:
    """Cosines `[B, ways]` of features `[B, D]` to the mean of each class's unit-length rows.

    -1 for a class without a row, 0 for a zero vector.
    """

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        lengths = np.linalg.norm(a) * np.linalg.norm(b)
        return float(a @ b / lengths) if lengths > 0 else 0.0

    cosines = np.full((len(features), ways), -1.0)
    for label in range(ways):
        rows = support_features[support_labels == label].astype(np.float64)
        if len(rows):
            lengths = np.linalg.norm(rows, axis=1, keepdims=True)
            mean = np.mean(rows / np.where(lengths > 0, lengths, 1), axis=0)
            cosines[:, label] = [cosine(row, mean) for row in features.astype(np.float64)]
    return cosines
