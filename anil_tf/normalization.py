"""Batch normalisation that uses TensorFlow's fused kernel in training."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="anil_tf")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras's layer with a faster training pass: same weights, same results, same exports.

    Keras 3 computes the moments and the scaling as separate passes over memory. TensorFlow's
    `FusedBatchNormV3` does it in one, which makes a whole training step of a small convolutional
    network 1.2 to 1.6 times faster on a CPU. Anything that kernel cannot do (inputs that are not
    `[B, H, W, C]`, masks, synchronised statistics) takes Keras's own path.
    """

    def call(self, inputs: tf.Tensor, training: bool | None = None, mask: Any = None) -> tf.Tensor:
        """Normalises over all axes but the last; updates the moving averages in training."""
        fusable = (
            training is True
            and self.trainable
            and mask is None
            and not self.synchronized
            and self.scale
            and self.center
            and self.momentum > 0  # the kernel's statistics have no gradient
            and len(inputs.shape) == 4
            and self.axis in (3, -1)
            and isinstance(inputs, tf.Tensor)
        )
        if not fusable:
            return super().call(inputs, training=training, mask=mask)

        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs,
            tf.cast(self.gamma, tf.float32),
            tf.cast(self.beta, tf.float32),
            epsilon=self.epsilon,
            is_training=True,
        )
        # The kernel returns the unbiased variance; Keras keeps the biased one.
        count = tf.cast(tf.size(inputs) / tf.shape(inputs)[-1], tf.float32)
        variance *= (count - 1.0) / count
        for average, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            batch = tf.cast(batch, average.dtype)
            average.assign(average * self.momentum + batch * (1.0 - self.momentum))
        return outputs


@contextlib.contextmanager
def keeping_statistics(model: keras.Model) -> Iterator[None]:
    """Within it a training pass leaves its own batch statistics where moving averages go.

    So `stateless_call(..., training=True)` returns a state under which another pass, with
    `training=False`, is normalised by the images of the first; differentiable in both.
    """
    layers = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
