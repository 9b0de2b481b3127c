"""A bundle's SavedModel in a TensorFlow session, as TensorFlow Serving loads it."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from anil_tf.export import layout
from anil_tf.export.manifest import Draft
from anil_tf.export.runtime.base import BundleRuntime
from anil_tf.export.signatures import Signature, TensorSpec


class SavedModelRuntime(BundleRuntime):
    """A `Runtime` on a bundle's SavedModel.

    It does not use `tf.saved_model.load`, which rebuilds Python objects and finds weights that a
    server, which restores variables by name, would not find.
    """

    name = "saved_model"
    files = (layout.SAVED_MODEL,)

    def __init__(self, bundle: str | Path | Draft) -> None:
        super().__init__(bundle)
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        logger = tf.get_logger()
        level = logger.level
        logger.setLevel("ERROR")  # the loader advises `tf.saved_model.load`; see above
        try:
            meta_graph = tf.compat.v1.saved_model.load(
                self._session, [tf.saved_model.SERVING], str(self.bundle / layout.SAVED_MODEL)
            )
        finally:
            logger.setLevel(level)
        self._signatures = meta_graph.signature_def
        self.signatures = {
            name: signature
            for name, signature in (self.signatures | self.manifest.encoded_signatures).items()
            if name in self._signatures
        }
        for name in self.signatures:
            definition = self._signatures[name]
            self.check_signature(
                name, Signature(_describe(definition.inputs), _describe(definition.outputs))
            )

    def _run(self, signature: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        definition = self._signatures[signature]
        fetches = {name: tensor.name for name, tensor in definition.outputs.items()}
        feeds = {definition.inputs[name].name: value for name, value in inputs.items()}
        return self._session.run(fetches, feeds)


def _describe(tensors: Any) -> dict[str, TensorSpec]:
    return {
        name: TensorSpec(
            np.dtype(tf.as_dtype(tensor.dtype).as_numpy_dtype).name,
            tuple("?" if axis.size < 0 else axis.size for axis in tensor.tensor_shape.dim),
        )
        for name, tensor in tensors.items()
    }
