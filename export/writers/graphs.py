"""The functions of a bundle as TensorFlow graphs, from which every format is converted."""

from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from anil_tf import closed_form
from anil_tf.acceptance import UNDIVIDED, Temperature
from anil_tf.closed_form import Tensors, adapt, similarity
from anil_tf.export.signatures import Signature, TensorSpec


class InitialHead(NamedTuple):
    """The head before adaptation, and the settings of its inner loop.

    With `shared`, `kernel` `[D, 1]` and `bias` `[1]` are one column to copy to any number of
    classes; otherwise `kernel` `[D, N]` and `bias` `[N]` have a column for each trained class.
    `ways` is the number of classes that the model was trained with.
    """

    kernel: np.ndarray
    bias: np.ndarray
    shared: bool
    inner_lr: float
    inner_steps: int
    ways: int

    def tensors(self, ways: tf.Tensor) -> Tensors:
        """`kernel` `[D, ways]` and `bias` `[ways]`.

        A graph cannot raise errors: if `ways` exceeds the columns of a head that is not shared, all
        its columns are returned. The runtimes of this package raise instead.
        """
        kernel, bias = tf.constant(self.kernel), tf.constant(self.bias)
        if self.shared:
            return {
                "kernel": tf.tile(kernel, tf.stack([1, ways])),
                "bias": tf.tile(bias, tf.stack([ways])),
            }
        return {"kernel": kernel[:, :ways], "bias": bias[:ways]}


class Graphs(NamedTuple):
    """The input of an exporter: a `tf.function` for each signature, and their weights.

    `metadata` is written into single files, see `Settings.metadata`; `name` is that of the bundle.
    """

    functions: dict[str, Any]
    signatures: dict[str, Signature]
    weights: list[tf.Variable]
    head: InitialHead
    metadata: dict[str, str]
    name: str = "model"


def build_graphs(
    backbone: keras.Model,
    head: InitialHead,
    signatures: dict[str, Signature],
    metadata: dict[str, str] | None = None,
    name: str = "model",
    temperature: Temperature = UNDIVIDED,
) -> Graphs:
    """The functions of a bundle: named tensors in, a dict of named tensors out.

    Args:
        backbone: Images `[B, ...]` -> features `[B, D]`, with pixel scaling inside; run in
            inference mode.
        head: Initial head.
        signatures: Signatures made by `signatures.declare`.
        metadata: Settings to write into every file that can hold them.
        name: Name of the bundle.
        temperature: Temperature of the probabilities; see `closed_form.predict`.

    Returns:
        The functions, each with its input signature.
    """

    def features(image: tf.Tensor) -> Tensors:
        return {"features": tf.cast(backbone(image, training=False), tf.float32)}

    def initial_head(ways: tf.Tensor) -> Tensors:
        return head.tensors(ways)

    def predict(features: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> Tensors:
        return closed_form.predict(features, kernel, bias, temperature)

    def adapt_and_predict(
        support_image: tf.Tensor, support_labels: tf.Tensor, query_image: tf.Tensor
    ) -> Tensors:
        # A shared head takes the number of classes from the support set, so padding must be
        # negative.
        ways = tf.reduce_max(support_labels) + 1 if head.shared else tf.constant(head.bias.size)
        adapted = adapt(
            functions["features"](support_image)["features"],
            support_labels,
            **head.tensors(ways),
            learning_rate=tf.constant(head.inner_lr),
            steps=tf.constant(head.inner_steps),
        )
        predicted = predict(
            functions["features"](query_image)["features"],
            adapted["adapted_kernel"],
            adapted["adapted_bias"],
        )
        return {"probabilities": predicted["probabilities"]}

    functions = {
        body.__name__: tf.function(body, input_signature=specs(signatures[body.__name__].inputs))
        for body in (features, initial_head, adapt, predict, similarity, adapt_and_predict)
    }
    weights = [variable.value for variable in backbone.variables]
    return Graphs(functions, signatures, weights, head, metadata or {}, name)


def specs(inputs: dict[str, TensorSpec]) -> list[tf.TensorSpec]:
    """Input signature for `tf.function`; axes with a name are dynamic, and objects are strings."""
    return [
        tf.TensorSpec(
            [axis if isinstance(axis, int) else None for axis in axes],
            tf.as_dtype(np.dtype(dtype)),
            name,
        )
        for name, (dtype, axes) in inputs.items()
    ]
