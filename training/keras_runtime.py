"""A trained Keras model behind the interface that exported bundles have."""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from anil_tf.export.runtime import Adaptation
from anil_tf.heads import LinearHead
from anil_tf.inner_loop import adapt_linear
from anil_tf.losses import counted_rows, mean_over_rows
from anil_tf.model import ANIL


class KerasRuntime:
    """Runs episodes on an `ANIL` model; see `anil_tf.export.runtime.Runtime`.

    Unlike a bundle it also takes the float targets `[M, N]` of a regression as labels.

    Args:
        model: With a linear head.

    Raises:
        ValueError: The head is another Keras layer.
    """

    name = "keras"

    def __init__(self, model: ANIL) -> None:
        if not isinstance(model.head, LinearHead):
            raise ValueError(
                "Only a linear head can be adapted outside training. Received: "
                f"{type(model.head.layer).__name__}. Use model.evaluate on a data set of episodes"
            )
        self.model = model
        self.inner_lr = float(model.inner_lr)
        self.inner_steps = model.inner_steps
        self._features = tf.function(model.features, reduce_retracing=True)
        self._adapt = tf.function(self._adapt_one, reduce_retracing=True)

    @classmethod
    def load(cls, path: Path) -> "KerasRuntime":
        """Opens a `model.keras`."""
        return cls(keras.saving.load_model(path, compile=False))

    def features(self, image: np.ndarray) -> np.ndarray:
        """Features float32 `[B, D]` of images `[B, H, W, C]`."""
        return self._features(tf.constant(image)).numpy()

    def initial_head(self, ways: int) -> tuple[np.ndarray, np.ndarray]:
        """The head before adaptation: kernel `[D, ways]`, bias `[ways]`."""
        kernel, bias = self.model.initial_head(ways)
        return kernel.numpy(), bias.numpy()

    def adapt(
        self,
        features: np.ndarray,
        labels: np.ndarray,
        kernel: np.ndarray,
        bias: np.ndarray,
        learning_rate: float,
        steps: int,
    ) -> Adaptation:
        """Fits a head to features `[M, D]` and labels `[M]`."""
        fitted = self._adapt(
            tf.constant(features),
            tf.constant(labels),
            tf.constant(kernel),
            tf.constant(bias),
            tf.constant(learning_rate, tf.float32),
            tf.constant(steps, tf.int32),
        )
        fitted_kernel, fitted_bias, initial, final, rows = (value.numpy() for value in fitted)
        return Adaptation(fitted_kernel, fitted_bias, float(initial), float(final), int(rows))

    def predict(
        self, features: np.ndarray, kernel: np.ndarray, bias: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Logits and probabilities `[B, N]` of features `[B, D]`."""
        logits = tf.matmul(features, kernel) + bias
        return logits.numpy(), tf.nn.softmax(logits).numpy()

    def _adapt_one(
        self,
        features: tf.Tensor,
        labels: tf.Tensor,
        kernel: tf.Tensor,
        bias: tf.Tensor,
        learning_rate: tf.Tensor,
        steps: tf.Tensor,
    ) -> tuple[tf.Tensor, ...]:
        loss = self.model.row_loss
        adapted = adapt_linear(
            features[tf.newaxis], labels[tf.newaxis], kernel, bias, loss, learning_rate, steps
        )
        kernels, biases = adapted.head()
        before = features @ kernel + bias
        after = features @ kernels[0] + biases[0]
        return (
            kernels[0],
            biases[0],
            mean_over_rows(loss, labels, before),
            mean_over_rows(loss, labels, after),
            tf.reduce_sum(counted_rows(labels, before)),
        )
