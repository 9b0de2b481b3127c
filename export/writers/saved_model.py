"""The SavedModel of a bundle, as TensorFlow Serving loads it."""

from pathlib import Path
from typing import Any

import tensorflow as tf

from anil_tf.closed_form import Tensors
from anil_tf.export import layout
from anil_tf.export.signatures import LIMITS
from anil_tf.export.writers.encoded import encoded_functions
from anil_tf.export.writers.graphs import Graphs

SERVING_DEFAULT = "adapt_and_predict"


def export_saved_model(graphs: Graphs, bundle: Path) -> None:
    """Write `saved_model/1/`, every function a signature, each weight stored once.

    Models of pictures have four signatures more, which take files; see `writers.encoded`.

    Args:
        graphs: Graphs made by `graphs.build_graphs`.
        bundle: Folder of the bundle.
    """
    module = tf.Module()
    # TensorFlow Serving restores the variables that the saved object tracks. Tracking the Keras
    # model would hide them from it, which `tf.saved_model.load` would not show.
    module.weights = graphs.weights
    functions = graphs.functions | encoded_functions(graphs)
    signatures = {
        name: guarded(function, graphs.head.shared) for name, function in functions.items()
    }
    signatures["serving_default"] = signatures[SERVING_DEFAULT]
    tf.saved_model.save(
        module,
        str(bundle / layout.SAVED_MODEL),
        signatures=signatures,
        options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
    )


def guarded(function: Any, shared: bool) -> Any:
    """The function with checks of `signatures.LIMITS`, for servers on a network.

    Two billion classes or steps, or a label of that size, would take all of a server's memory or
    time. The error is an INVALID_ARGUMENT that says what was received.

    Args:
        function: Function made by `graphs.build_graphs`.
        shared: Whether the largest label sets the number of classes.
    """

    def checked(**inputs: tf.Tensor) -> Tensors:
        numbers = {name: (inputs[name], *LIMITS[name]) for name in LIMITS if name in inputs}
        if shared and "support_labels" in inputs:
            largest = tf.reduce_max(inputs["support_labels"])
            numbers["the largest label"] = (tf.maximum(largest, 0), 0, LIMITS["ways"][1] - 1)
        checks = [
            tf.debugging.Assert(
                (value >= least) & (value <= most),
                [f"{name} must lie in {least}..{most}. Received:", value],
            )
            for name, (value, least, most) in numbers.items()
        ]
        with tf.control_dependencies(checks):
            return function(**{name: tf.identity(value) for name, value in inputs.items()})

    specs = {spec.name: spec for spec in function.input_signature}
    return tf.function(checked).get_concrete_function(**specs)
