"""Heads: the part of the network that the inner loop adapts.

A head returns its initial parameters for a task and applies parameters to features. Adapted
parameters are tensors of their own: they never replace the variables that the outer loop trains.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import keras
import tensorflow as tf

from anil_tf.tasks import map_tasks

HeadInit = Literal["per_class", "shared"]
_SCALE = 10.0  # as Gidaris & Komodakis begin with


@keras.saving.register_keras_serializable(package="anil_tf")
class LinearHead(keras.layers.Layer):
    """A linear layer on the features, always in float32.

    `per_class` learns one column per class, as the paper does: the number of ways is fixed.
    `shared` learns a single column and copies it to every class (UNICORN-MAML, Ye & Chao,
    ICLR 2022): the order of the classes cannot matter, and the head adapts to any number of them.
    It starts at zero. Under softmax cross-entropy a column common to all classes cancels out, so
    it stays an (exact) no-op there and adaptation starts from equal probabilities; under other
    losses it is learned.

    Args:
        ways: Number of classes, or of regression outputs, of a task.
        init: `"per_class"` or `"shared"`.

    Input shape: features `[..., D]`.
    Output shape: logits `[..., ways]`.
    """

    def __init__(self, ways: int, init: HeadInit = "per_class", **kwargs: Any) -> None:
        if init not in get_args(HeadInit):
            raise ValueError(
                f"head_init must be one of {get_args(HeadInit)}. Received: head_init={init!r}"
            )
        kwargs.setdefault("name", "head")
        kwargs["dtype"] = "float32"  # adaptation keeps full precision under mixed precision
        super().__init__(**kwargs)
        self.ways = ways
        self.init = init

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the kernel `[D, columns]` and the bias `[columns]`."""
        shared = self.init == "shared"
        columns = 1 if shared else self.ways
        self.kernel = self.add_weight(
            name="kernel",
            shape=(input_shape[-1], columns),
            initializer="zeros" if shared else "glorot_uniform",
        )
        self.bias = self.add_weight(name="bias", shape=(columns,), initializer="zeros")
        self.built = True

    def initial(self, ways: int | None = None) -> list[tf.Tensor]:
        """The head before adaptation.

        Args:
            ways: Number of classes; by default that of training.

        Returns:
            Kernel `[D, ways]` and bias `[ways]`, float32.

        Raises:
            ValueError: A `per_class` head is asked for more classes than it was trained with.
        """
        ways = self.ways if ways is None else ways
        kernel, bias = tf.convert_to_tensor(self.kernel), tf.convert_to_tensor(self.bias)
        if self.init == "shared":
            return [tf.tile(kernel, [1, ways]), tf.tile(bias, [ways])]
        if ways > self.ways:
            raise ValueError(
                f"A per_class head has {self.ways} classes. Received: ways={ways}. Train with "
                "head_init='shared' to adapt to any number of classes."
            )
        return [kernel[:, :ways], bias[:ways]]

    def apply(self, parameters: Sequence[tf.Tensor], features: tf.Tensor) -> tf.Tensor:
        """Logits of each task under its own parameters.

        Args:
            parameters: Kernels `[T, D, N]` and biases `[T, N]`.
            features: `[T, M, D]`.

        Returns:
            `[T, M, N]`.
        """
        kernel, bias = parameters
        return tf.matmul(features, kernel) + bias[:, tf.newaxis, :]

    def call(self, features: tf.Tensor, ways: int | None = None) -> tf.Tensor:
        """Logits under the initial head."""
        kernel, bias = self.initial(ways)
        return tf.matmul(features, kernel) + bias

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Shape `[..., ways]` of the logits, for `summary`."""
        return (*input_shape[:-1], self.ways)

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        config = super().get_config()
        del config["dtype"]
        return {**config, "ways": self.ways, "init": self.init}


@keras.saving.register_keras_serializable(package="anil_tf")
class CosineClassifier(keras.layers.Layer):
    """Cosines to a learned vector of each class, times a learned scale, always in float32.

    After Gidaris & Komodakis (CVPR 2018, https://arxiv.org/abs/1804.09458), equation 3. The inner
    loop does not adapt it.

    Args:
        classes: Number of classes.

    Input shape: features `[..., D]`.
    Output shape: logits `[..., classes]`.
    """

    def __init__(self, classes: int, **kwargs: Any) -> None:
        kwargs.setdefault("name", "classifier")
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.classes = classes

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the kernel `[D, classes]` and the scale."""
        self.kernel = self.add_weight(
            name="kernel",
            shape=(input_shape[-1], self.classes),
            initializer="glorot_uniform",
        )
        self.scale = self.add_weight(
            name="scale", shape=(), initializer=keras.initializers.Constant(_SCALE)
        )
        self.built = True

    def call(self, features: tf.Tensor) -> tf.Tensor:
        """Logits of the features."""
        kernel = tf.math.l2_normalize(tf.convert_to_tensor(self.kernel), axis=0)
        return self.scale * tf.matmul(tf.math.l2_normalize(features, axis=-1), kernel)

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        config = super().get_config()
        del config["dtype"]
        return {**config, "classes": self.classes}


@keras.saving.register_keras_serializable(package="anil_tf")
class KerasHead(keras.layers.Layer):
    """Any Keras layer or model (an MLP, say) as the head, adapted by the tape inner loop.

    Args:
        layer: Maps features `[M, D]` to logits `[M, N]`. Its non-trainable state (the moving
            averages of a batch normalisation, say) is read and never written.

    Input shape: features `[..., D]`.
    Output shape: logits `[..., N]`.
    """

    def __init__(self, layer: keras.layers.Layer, **kwargs: Any) -> None:
        kwargs.setdefault("name", "head")
        super().__init__(**kwargs)
        self.layer = layer

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Builds the layer."""
        if not self.layer.built:
            self.layer.build((None, input_shape[-1]))
        self.built = True

    def initial(self, ways: int | None = None) -> list[tf.Tensor]:
        """The trainable weights before adaptation; `ways` is the layer's own."""
        del ways
        return [tf.convert_to_tensor(weight) for weight in self.layer.trainable_variables]

    def apply(self, parameters: Sequence[tf.Tensor], features: tf.Tensor) -> tf.Tensor:
        """Logits `[T, M, N]` of each task's features `[T, M, D]` under its own parameters."""
        state = [tf.convert_to_tensor(value) for value in self.layer.non_trainable_variables]

        def one_task(features: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
            logits, _ = self.layer.stateless_call(list(weights), state, features)
            return tf.cast(logits, tf.float32)

        return map_tasks(one_task, features, *parameters)

    def call(self, features: tf.Tensor, ways: int | None = None) -> tf.Tensor:
        """Logits under the initial head; `ways` is the layer's own."""
        rows = tf.reshape(features, [-1, features.shape[-1]])  # many layers take `[M, D]` only
        logits = self.layer(rows)
        return tf.reshape(logits, tf.concat([tf.shape(features)[:-1], [logits.shape[-1]]], axis=0))

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        layer = keras.saving.serialize_keras_object(self.layer)
        return {**super().get_config(), "layer": layer}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "KerasHead":
        """Rebuilds the layer from its configuration."""
        layer = keras.saving.deserialize_keras_object(config["layer"])
        return cls(**{**config, "layer": layer})
