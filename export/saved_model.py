"""The SavedModel of a bundle, as TensorFlow Serving loads it."""

from pathlib import Path

import tensorflow as tf

from anil_tf.export import layout
from anil_tf.export.graphs import Graphs

SERVING_DEFAULT = "adapt_and_predict"


def export_saved_model(graphs: Graphs, bundle: Path) -> None:
    """Write `saved_model/1/`, every function a signature, each weight stored once.

    Args:
        graphs: From `graphs.build_graphs`.
        bundle: Folder of the bundle.
    """
    module = tf.Module()
    # TensorFlow Serving restores the variables that the saved object tracks. Tracking the Keras
    # model would hide them from it, which `tf.saved_model.load` would not show.
    module.weights = graphs.weights
    signatures = {
        name: function.get_concrete_function() for name, function in graphs.functions.items()
    }
    signatures["serving_default"] = signatures[SERVING_DEFAULT]
    tf.saved_model.save(
        module,
        str(bundle / layout.SAVED_MODEL),
        signatures=signatures,
        options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
    )
