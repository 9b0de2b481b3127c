"""Adaptation and prediction in NumPy, in float64, written from the paper's equations.

What every runtime is compared with. It shares no code and no algebra with the exported graphs:
it moves the kernel and the bias along their own gradients, one step after another.

Source: Raghu et al. 2020, https://arxiv.org/abs/1909.09157, section 4.1.
"""

import numpy as np

from anil_tf.export.runtime import Adaptation


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithm of the softmax over the last axis."""
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
) -> Adaptation:
    """Gradient descent on the mean cross-entropy of the support set.

    Args:
        features: `[M, D]`.
        labels: Integers `[M]`; rows with a label outside `0..N-1` are left out.
        kernel: `[D, N]`.
        bias: `[N]`.
        learning_rate: Rate of the inner loop.
        steps: How many updates.
        dtype: Precision to compute in; float32 shows what that precision alone costs.

    Returns:
        The adapted head.
    """
    kernel, bias = kernel.astype(dtype), bias.astype(dtype)
    counted = (labels >= 0) & (labels < bias.size)
    x, y = features[counted].astype(dtype), labels[counted]
    rows = len(y)
    if rows == 0:
        return Adaptation(kernel, bias, 0.0, 0.0, 0)

    one_hot = np.eye(bias.size, dtype=dtype)[y]

    def loss() -> float:
        return float(-(one_hot * log_softmax(x @ kernel + bias)).sum() / rows)

    initial_loss = loss()
    for _ in range(steps):
        residual = np.exp(log_softmax(x @ kernel + bias)) - one_hot
        kernel = kernel - learning_rate * x.T @ residual / rows
        bias = bias - learning_rate * residual.sum(axis=0) / rows
    return Adaptation(kernel, bias, initial_loss, loss(), rows)


def predict(
    features: np.ndarray,
    kernel: np.ndarray,
    bias: np.ndarray,
    dtype: type[np.floating] = np.float64,
) -> tuple[np.ndarray, np.ndarray]:
    """Logits and probabilities `[B, N]` of features `[B, D]` under a head."""
    logits = features.astype(dtype) @ kernel.astype(dtype) + bias.astype(dtype)
    return logits, np.exp(log_softmax(logits))
