"""A LiteRT file that holds its head, as LiteRT's on-device training does.

The signatures follow https://ai.google.dev/edge/litert/models/ondevice_training: `train` changes
what `infer` uses. `get_head` and `set_head` stand for its `save` and `restore`, which need
operations that are not built in; the application stores the head as it stores anything else.
"""

from pathlib import Path

import tensorflow as tf

from anil_tf.export import layout
from anil_tf.export.signatures import NO_CLASS_BIAS
from anil_tf.export.writers.graphs import Graphs, Tensors, predict
from anil_tf.export.writers.litert import adapt_used, room_for_ways, write_functions


def export_trainer(graphs: Graphs, bundle: Path) -> None:
    """Write `litert/trainer.tflite`, whose head is the initial one of the trained classes.

    Its signatures, beside `features` and `initial_head` as in `model.tflite`:

    - `train`: features `[M, D]`, labels `[M]`, learning_rate, steps -> loss after these steps
    - `infer`: features `[B, D]` -> logits and probabilities `[B, C]`
    - `get_head` -> kernel `[D, C]`, bias `[C]`
    - `set_head`: kernel `[D, N]`, bias `[N]` -> ways, the N from now on

    Variables have a fixed size, so C classes have room, of which N are in use. The others have
    kernel 0 and bias `NO_CLASS_BIAS`, and probability 0.

    Args:
        graphs: From `graphs.build_graphs`.
        bundle: Folder of the bundle.

    Raises:
        ValueError: A function needs an operation that is not built into LiteRT.
    """
    feature_size, columns = graphs.head.kernel.shape[0], room_for_ways(graphs.head)

    def fill_up(kernel: tf.Tensor, bias: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        missing = columns - tf.size(bias)
        kernel = tf.pad(kernel, [[0, 0], [0, missing]])
        bias = tf.pad(bias, [[0, missing]], constant_values=NO_CLASS_BIAS)
        # LiteRT lets a variable be assigned another size, and then writes beyond its memory.
        return tf.reshape(kernel, [feature_size, columns]), tf.reshape(bias, [columns])

    kernel, bias = map(tf.Variable, fill_up(**graphs.head.tensors(tf.constant(graphs.head.ways))))
    features = tf.TensorSpec([None, feature_size], tf.float32, "features")

    @tf.function(
        input_signature=[
            features,
            tf.TensorSpec([None], tf.int32, "labels"),
            tf.TensorSpec([], tf.float32, "learning_rate"),
            tf.TensorSpec([], tf.int32, "steps"),
        ]
    )
    def train(
        features: tf.Tensor, labels: tf.Tensor, learning_rate: tf.Tensor, steps: tf.Tensor
    ) -> Tensors:
        adapted = adapt_used(
            features, labels, kernel.read_value(), bias.read_value(), learning_rate, steps
        )
        kernel.assign(adapted["adapted_kernel"])
        bias.assign(adapted["adapted_bias"])
        return {"loss": adapted["final_loss"]}

    @tf.function(input_signature=[features])
    def infer(features: tf.Tensor) -> Tensors:
        return predict(features, kernel.read_value(), bias.read_value())

    @tf.function(input_signature=[])
    def get_head() -> Tensors:
        return {"kernel": kernel.read_value(), "bias": bias.read_value()}

    @tf.function(
        input_signature=[
            tf.TensorSpec([feature_size, None], tf.float32, "kernel"),
            tf.TensorSpec([None], tf.float32, "bias"),
        ]
    )
    def set_head(new_kernel: tf.Tensor, new_bias: tf.Tensor) -> Tensors:
        filled_kernel, filled_bias = fill_up(new_kernel, new_bias)
        kernel.assign(filled_kernel)
        bias.assign(filled_bias)
        return {"ways": tf.size(new_bias)}

    functions = {name: graphs.functions[name] for name in ("features", "initial_head")}
    functions |= {"train": train, "infer": infer, "get_head": get_head, "set_head": set_head}
    write_functions(functions, [*graphs.weights, kernel, bias], bundle / layout.LITERT_TRAINER)
