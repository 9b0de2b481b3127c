"""Signatures that take pictures as files: JPEG and PNG, decoded in the graph.

For callers of TensorFlow Serving's REST API, where a picture as numbers takes four times the bytes
of its file in base64, and fifty times as long to read. The rule is that of
`anil_tf.datasets.pictures`, in TensorFlow's operations.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from anil_tf.closed_form import Tensors
from anil_tf.export.signatures import declare_encoded
from anil_tf.export.writers.graphs import Graphs, specs

JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
MOST_PIXELS = 2**26  # of one picture: a small file can claim any size
_HEAD = 2**16  # bytes at the start of a file, in which its EXIF data lies
# The orientation in EXIF data, whose entries are in the order of their tags: those before it,
# 0x0112, have 0 or 1 as the upper byte of theirs. `\C` is any byte.
_ORIENTATION = (
    r"(?:Exif\x00\x00|eXIf)(?:"
    r"MM\x00\*\x00\x00\x00\x08\C\C(?:[\x00\x01]\C{11})*?\x01\x12\x00\x03\x00\x00\x00\x01\x00%s|"
    r"II\*\x00\x08\x00\x00\x00\C\C(?:\C[\x00\x01]\C{10})*?\x12\x01\x03\x00\x01\x00\x00\x00%s\x00)"
)


def encoded_functions(graphs: Graphs) -> dict[str, Any]:
    """A `tf.function` for each signature of `declare_encoded`; none for data not of pictures."""
    signature = graphs.signatures["features"]
    dtype, (_, *axes) = signature.inputs["image"]
    image_shape = tuple(int(axis) for axis in axes)
    _, size = signature.outputs["features"].axes
    declared = declare_encoded(image_shape, dtype, int(size))

    functions = graphs.functions
    # One function for all signatures, so that its graph is stored once.
    decode = tf.function(
        lambda encoded: decode_pictures(encoded, image_shape),
        input_signature=[tf.TensorSpec([None], tf.string)],
    )

    def features_encoded(encoded: tf.Tensor) -> Tensors:
        return functions["features"](decode(encoded))

    def learn_encoded(
        encoded: tf.Tensor,
        labels: tf.Tensor,
        learning_rate: tf.Tensor,
        steps: tf.Tensor,
        ways: tf.Tensor,
    ) -> Tensors:
        features = features_encoded(encoded)["features"]
        head = functions["initial_head"](ways)
        adapted = functions["adapt"](
            features, labels, head["kernel"], head["bias"], learning_rate, steps
        )
        return {**adapted, "features": features}

    def predict_encoded(encoded: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> Tensors:
        return functions["predict"](features_encoded(encoded)["features"], kernel, bias)

    def adapt_and_predict_encoded(
        support_encoded: tf.Tensor, support_labels: tf.Tensor, query_encoded: tf.Tensor
    ) -> Tensors:
        return functions["adapt_and_predict"](
            decode(support_encoded), support_labels, decode(query_encoded)
        )

    each = (features_encoded, learn_encoded, predict_encoded, adapt_and_predict_encoded)
    bodies = {body.__name__: body for body in each}
    return {
        name: tf.function(bodies[name], input_signature=specs(signature.inputs))
        for name, signature in declared.items()
    }


def decode_pictures(encoded: tf.Tensor, image_shape: tuple[int, ...]) -> tf.Tensor:
    """Pictures in the model's shape, one after the other, so that one at a time takes memory.

    Args:
        encoded: Files of JPEG or PNG, strings `[B]`.
        image_shape: Height, width and channels (1: grey, 3: RGB).

    Returns:
        uint8 `[B, H, W, C]`. Running it raises `InvalidArgumentError` for a file of another kind, a
        damaged one, and one of more than `MOST_PIXELS`.
    """
    return tf.map_fn(
        lambda one: _decode(one, image_shape),
        encoded,
        fn_output_signature=tf.TensorSpec(image_shape, tf.uint8),
        parallel_iterations=1,
    )


def _decode(encoded: tf.Tensor, image_shape: tuple[int, ...]) -> tf.Tensor:
    is_jpeg = _starts_with(encoded, JPEG)
    known = tf.debugging.Assert(
        is_jpeg | _starts_with(encoded, PNG),
        ["A picture must be the bytes of a JPEG or PNG file, in base64. Received another kind"],
    )
    with tf.control_dependencies([known]):
        encoded = tf.identity(encoded)
    pixels = tf.cond(is_jpeg, lambda: _read_jpeg(encoded), lambda: _read_png(encoded))
    pixels = _turn_upright(pixels, encoded)
    if image_shape[2] == 1:
        weights = tf.constant([19595, 38470, 7471])
        luma = tf.reduce_sum(tf.cast(pixels, tf.int32) * weights, axis=-1, keepdims=True)
        pixels = tf.cast((luma + 32768) // 65536, tf.uint8)
    return _fit(pixels, image_shape)


def _starts_with(encoded: tf.Tensor, start: bytes) -> tf.Tensor:
    # Of a shorter string `substr` would raise its own error.
    padded = tf.strings.join([encoded, tf.constant(b"\0" * len(start))])
    return tf.equal(tf.strings.substr(padded, 0, len(start)), start)


def _check_size(size: tf.Tensor) -> tf.Operation:
    height, width = tf.cast(size[0], tf.int64), tf.cast(size[1], tf.int64)
    return tf.debugging.Assert(
        (height > 0) & (width > 0) & (height * width <= MOST_PIXELS),
        [f"A picture must have at most {MOST_PIXELS} pixels. Received height and width:", size],
    )


def _read_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    with tf.control_dependencies([_check_size(tf.io.extract_jpeg_shape(encoded)[:2])]):
        # As libjpeg does it for Pillow; TensorFlow's own choice is faster and less exact.
        return tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")


def _read_png(encoded: tf.Tensor) -> tf.Tensor:
    padded = tf.strings.join([encoded, tf.constant(b"\0" * 25)])  # of any length, to read from
    place = tf.strings.substr(padded, 16, 8)
    width, height = tf.unstack(tf.io.decode_raw(place, tf.int32, little_endian=False), 2)
    bits = tf.io.decode_raw(tf.strings.substr(padded, 24, 1), tf.uint8)[0]
    with tf.control_dependencies([_check_size(tf.stack([height, width]))]):
        # An alpha channel that TensorFlow adds to 1, 2 or 4 bits has a wrong value.
        pixels = tf.cond(
            bits >= 8,
            lambda: tf.io.decode_png(encoded, channels=4),
            lambda: tf.io.decode_png(encoded, channels=0),
        )
        pixels = tf.cast(pixels, tf.int32)
    has_alpha = 1 - tf.shape(pixels)[-1] % 2
    colors, alpha = tf.split(pixels, [tf.shape(pixels)[-1] - has_alpha, has_alpha], axis=-1)
    # A sum over no channel is 0, and that is opaque.
    alpha = tf.reduce_sum(alpha, axis=-1, keepdims=True) + 255 * (1 - has_alpha)
    colors = tf.broadcast_to(colors, [height, width, 3])
    # On white; `+ 127` rounds, since nothing lies halfway between two of 255 parts.
    return tf.cast((colors * alpha + 255 * (255 - alpha) + 127) // 255, tf.uint8)


def _turn_upright(pixels: tf.Tensor, encoded: tf.Tensor) -> tf.Tensor:
    """The picture as its EXIF orientation says."""
    head = tf.strings.substr(encoded, 0, tf.minimum(tf.strings.length(encoded), _HEAD))

    def says(values: str) -> tf.Tensor:
        pattern = _ORIENTATION % (values, values)
        return tf.strings.regex_full_match(head, rf"(?s)\C*{pattern}\C*")

    def when(condition: tf.Tensor, turn: Callable[[tf.Tensor], tf.Tensor]) -> None:
        nonlocal pixels
        before = pixels
        pixels = tf.cond(condition, lambda: turn(before), lambda: before)

    when(says(r"[\x05-\x08]"), lambda x: tf.transpose(x, [1, 0, 2]))
    when(says(r"[\x02\x03\x06\x07]"), lambda x: tf.reverse(x, [1]))
    when(says(r"[\x03\x04\x07\x08]"), lambda x: tf.reverse(x, [0]))
    return pixels


def _fit(pixels: tf.Tensor, image_shape: tuple[int, ...]) -> tf.Tensor:
    """The largest centred box of the model's aspect ratio, resized: rows before columns."""
    height, width, _ = image_shape
    size = tf.shape(pixels)
    box_width = tf.maximum(1, tf.minimum(size[1], _times(size[0], width, height)))
    box_height = tf.maximum(1, tf.minimum(size[0], _times(size[1], height, width)))
    top, left = (size[0] - box_height) // 2, (size[1] - box_width) // 2
    box = pixels[top : top + box_height, left : left + box_width]
    for axis, wanted in ((1, width), (0, height)):
        found = tf.shape(box)
        target = tf.stack([found[0], wanted] if axis else [wanted, found[1]])
        before = box
        box = tf.cond(
            tf.equal(found[axis], wanted),
            lambda x=before: x,
            lambda x=before, t=target: _resize(x, t),
        )
    return tf.ensure_shape(box, image_shape)


def _times(length: tf.Tensor, times: int, divisor: int) -> tf.Tensor:
    product = tf.cast(length, tf.int64) * times // divisor
    return tf.cast(product, tf.int32)


def _resize(pixels: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    resized = tf.image.resize(pixels, size, "lanczos3", antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)
