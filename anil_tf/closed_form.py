"""`adapt`, `predict` and `similarity` for graphs that run without automatic differentiation.

`adapt` is gradient descent on softmax cross-entropy: the residual dL/dS = weight * (softmax(S) - Y)
is written out, and the Gram recurrence of `anil_tf.inner_loop` runs in a `tf.while_loop`. Built-in
operations only; every size is dynamic.
"""

import tensorflow as tf

from anil_tf.acceptance import UNDIVIDED, Temperature
from anil_tf.inner_loop import LinearAdaptation, gram_loop, gram_matrix
from anil_tf.losses import weigh_rows

Tensors = dict[str, tf.Tensor]

NO_CLASS_BIAS = -1e30  # of columns of no class, which files with fixed shapes have


def adapt(
    features: tf.Tensor,
    labels: tf.Tensor,
    kernel: tf.Tensor,
    bias: tf.Tensor,
    learning_rate: tf.Tensor,
    steps: tf.Tensor,
) -> Tensors:
    """Fit a head to a support set by `steps` steps of gradient descent.

    Every class counts alike, however many rows it has (`anil_tf.losses.row_weights`). A label
    outside `0..N-1` marks a padding row: it is left out, whatever its features hold. With no row
    left the head comes back unchanged, with losses of zero.

    Args:
        features: float32 `[M, D]`.
        labels: int32 `[M]`.
        kernel: float32 `[D, N]`.
        bias: float32 `[N]`.
        learning_rate: float32 scalar.
        steps: int32 scalar, 0 or more.

    Returns:
        `adapted_kernel` `[D, N]`, `adapted_bias` `[N]`, the support loss before and after as
        `initial_loss` and `final_loss`, and `rows_used` (int32).
    """
    targets = one_hot(labels, tf.size(bias))
    counted = tf.reduce_sum(targets, axis=1, keepdims=True)
    weights = weigh_rows(targets)
    features = tf.where(counted > 0.0, features, 0.0)

    # The factors of the residuals are the same in every step: the Gram matrix takes them in once.
    rates = learning_rate * weights
    logits = tf.matmul(features, kernel) + bias
    adapted_logits, coefficients = gram_loop(
        gram_matrix(features, features) * tf.transpose(rates),
        logits,
        lambda logits: tf.nn.softmax(logits) - targets,
        1.0,
        steps,
    )
    adapted_kernel, adapted_bias = LinearAdaptation(
        features, kernel, bias, rates * coefficients
    ).head()
    return {
        "adapted_kernel": adapted_kernel,
        "adapted_bias": adapted_bias,
        "initial_loss": support_loss(weights, targets, logits),
        "final_loss": support_loss(weights, targets, adapted_logits),
        "rows_used": tf.cast(tf.reduce_sum(counted), tf.int32),
    }


def predict(
    features: tf.Tensor,
    kernel: tf.Tensor,
    bias: tf.Tensor,
    temperature: Temperature = UNDIVIDED,
) -> Tensors:
    """Logits and probabilities, `[B, N]`, of features `[B, D]` under a head.

    Args:
        features: Features `[B, D]`.
        kernel: Kernel `[D, N]` of the head.
        bias: Bias `[N]` of the head. A column with `NO_CLASS_BIAS` is of no class.
        temperature: Divisor of the logits in the softmax (Guo et al. 2017). It changes no answer.

    Returns:
        `logits`, undivided, and `probabilities`.
    """
    logits = tf.matmul(features, kernel) + bias
    if temperature == UNDIVIDED:
        return {"logits": logits, "probabilities": tf.nn.softmax(logits)}
    ways = tf.reduce_sum(tf.cast(tf.not_equal(bias, NO_CLASS_BIAS), tf.float32))
    divisor = temperature.scale * tf.exp(temperature.power * tf.math.log(ways))
    return {"logits": logits, "probabilities": tf.nn.softmax(logits / divisor)}


def similarity(
    features: tf.Tensor, support_features: tf.Tensor, support_labels: tf.Tensor, ways: tf.Tensor
) -> Tensors:
    """How much each image resembles each class: its cosine to the mean of the class's rows.

    Every row counts by its direction alone. A label outside `0..N-1` marks a padding row: it is
    left out, whatever its features hold. A class without a row has the similarity -1, the least
    that there is. The cosine of a zero vector is 0.

    Args:
        features: float32 `[B, D]`.
        support_features: float32 `[M, D]`.
        support_labels: int32 `[M]`.
        ways: int32 scalar, N.

    Returns:
        `similarity` float32 `[B, N]`, from -1 to 1.
    """
    targets = one_hot(support_labels, ways)
    counted = tf.reduce_sum(targets, axis=1, keepdims=True)
    rows = _normalize(tf.where(counted > 0.0, support_features, 0.0))
    # The sum of the rows has the direction of their mean.
    means = _normalize(tf.matmul(targets, rows, transpose_a=True))
    cosines = tf.matmul(_normalize(features), means, transpose_b=True)
    has_rows = tf.reduce_sum(targets, axis=0) > 0.0
    return {"similarity": tf.where(has_rows, cosines, -1.0)}


def one_hot(labels: tf.Tensor, ways: tf.Tensor) -> tf.Tensor:
    """One-hot rows float32 `[M, N]` of labels int32 `[M]`; zeros for a label outside `0..N-1`.

    Compared, not `tf.one_hot`: ONNX's OneHot counts a negative label from the last class. And
    compared by `!=`: of `==` LiteRT's converter makes its ONE_HOT, which microcontrollers lack.
    """
    return tf.where(labels[:, tf.newaxis] != tf.range(ways), 0.0, 1.0)


def support_loss(weights: tf.Tensor, targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Cross-entropy `[]` of logits `[M, N]`, with a weight `[M, 1]` of each row."""
    return -tf.reduce_sum(weights * targets * tf.nn.log_softmax(logits))


def _normalize(rows: tf.Tensor) -> tf.Tensor:
    """Rows `[M, D]` at unit length, however short or long; zero rows stay zero."""
    largest = tf.reduce_max(tf.abs(rows), axis=1, keepdims=True)
    # Squares of very small or large numbers would underflow or overflow.
    return tf.math.l2_normalize(rows / tf.where(largest > 0.0, largest, 1.0), axis=1)
