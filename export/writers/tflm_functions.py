"""`adapt` and `similarity` for TensorFlow Lite Micro: of its operators, and without copies.

A support set of 25 rows with 256 features takes 26 kB, about as much memory as all else together.
So no operation here makes a second one, by masking, scaling or transposing it. In return, padding
rows must hold finite numbers, such as zeros. The mathematics is that of `anil_tf.closed_form`.
"""

import tensorflow as tf

from anil_tf.closed_form import Tensors, one_hot, support_loss
from anil_tf.export.signatures import NO_CLASS_BIAS
from anil_tf.inner_loop import gram_loop
from anil_tf.losses import weigh_rows

SHORTEST = 1e-12  # lengths that features are divided by are at least this


def adapt(
    features: tf.Tensor,
    labels: tf.Tensor,
    kernel: tf.Tensor,
    bias: tf.Tensor,
    learning_rate: tf.Tensor,
    steps: tf.Tensor,
) -> Tensors:
    """`anil_tf.closed_form.adapt` for a head with unused columns, of features `[1, 1, M, D]`.

    The two axes of size 1 let `_sum_rows` take the features as they are.
    """
    rows, size, ways = features.shape[2], features.shape[3], bias.shape[0]
    used = tf.cast(tf.not_equal(bias, NO_CLASS_BIAS), tf.float32)
    targets = one_hot(labels, tf.constant(ways)) * used
    weights = weigh_rows(targets)
    rates = learning_rate * weights
    # The right-hand sides are given transposed: the product would keep a transposed copy.
    columns = tf.reshape(tf.transpose(kernel), [1, 1, ways, size])
    logits = tf.reshape(tf.matmul(features, columns, transpose_b=True), [rows, ways]) + bias
    gram = tf.reshape(tf.matmul(features, features, transpose_b=True), [rows, rows]) + 1.0
    adapted_logits, coefficients = gram_loop(
        gram * tf.transpose(rates),
        logits,
        lambda logits: tf.nn.softmax(logits) - targets,
        1.0,
        steps,
    )
    coefficients *= rates
    return {
        "adapted_kernel": kernel + _sum_rows(features, coefficients),
        "adapted_bias": bias + tf.reduce_sum(coefficients, axis=0),
        "initial_loss": support_loss(weights, targets, logits),
        "final_loss": support_loss(weights, targets, adapted_logits),
        "rows_used": tf.cast(tf.reduce_sum(targets), tf.int32),
    }


def similarity(
    features: tf.Tensor,
    support_features: tf.Tensor,
    support_labels: tf.Tensor,
    ways: tf.Tensor,
    columns: int,
) -> Tensors:
    """`anil_tf.closed_form.similarity` `[1, columns]`, from inner products alone.

    The sum of a class's unit-length rows is `support_features' @ shares`.
    """

    def length(squares: tf.Tensor) -> tf.Tensor:
        return tf.maximum(tf.sqrt(tf.maximum(squares, 0.0)), SHORTEST)

    rows = support_features.shape[0]
    products = tf.matmul(support_features, support_features, transpose_b=True)
    squares = tf.reduce_sum(products * tf.eye(rows), axis=1, keepdims=True)
    used = tf.cast(tf.range(columns) < ways, tf.float32)
    targets = one_hot(support_labels, tf.constant(columns)) * used
    shares = targets / length(squares)
    sums = length(tf.reduce_sum(shares * tf.matmul(products, shares), axis=0))
    image = length(tf.reduce_sum(features * features, axis=1, keepdims=True))
    cosines = tf.matmul(tf.matmul(features, support_features, transpose_b=True), shares)
    has_rows = tf.reduce_sum(targets, axis=0) > 0.0
    return {"similarity": tf.where(has_rows, cosines / (image * sums), -1.0)}


def _sum_rows(features: tf.Tensor, coefficients: tf.Tensor) -> tf.Tensor:
    """`features' @ coefficients`, `[D, N]`, of features `[1, 1, M, D]`, as a convolution.

    A matrix product would transpose the features. Here they are a filter, M pixels wide, that makes
    D channels of one; each column of the coefficients is an image that it covers.
    """
    rows, size = features.shape[2:]
    images = tf.reshape(tf.transpose(coefficients), [-1, 1, rows, 1])
    filters = tf.reshape(features, [1, rows, 1, size])
    sums = tf.nn.depthwise_conv2d(images, filters, strides=[1, 1, 1, 1], padding="VALID")
    return tf.transpose(tf.reshape(sums, [-1, size]))
