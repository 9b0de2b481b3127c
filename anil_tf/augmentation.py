"""Random changes to the images of episodes, each decided by random numbers that it is given.

All take uint8 images `[N, S, H, W, C]`, S of each of N classes, and return the same shape and
dtype. Every device draws the same pixels: the floats are integers below 2^24 throughout, on which
float32 rounds nothing.
"""

import numpy as np
import tensorflow as tf

from anil_tf.random_words import BITS

TURNS = 4  # multiples of 90 degrees
# Binary digits after the point: of a factor or coefficient, and of a place in pixels.
_FACTOR, _COEFFICIENT, _PLACE = 12, 16, 8


def rotate(images: tf.Tensor, turns: tf.Tensor) -> tf.Tensor:
    """Rotates the images of each class by `turns[n]` times 90 degrees."""
    rows, size, _, channels = images.shape[1:]
    # From which place of the old image each pixel of the new one comes, after 0 to 3 turns.
    places = np.arange(size * size).reshape(size, size)
    turned = np.stack([np.rot90(places, turn).ravel() for turn in range(TURNS)])
    flat = tf.reshape(images, [-1, rows, size * size, channels])
    return tf.reshape(
        tf.gather(flat, tf.gather(tf.constant(turned, tf.int32), turns), axis=2, batch_dims=1),
        images.shape,
    )


def flip(images: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
    """Mirrors a random half of the images, left to right.

    Args:
        images: Images.
        numbers: int32 `[N, S]`, uniform below `2**BITS`.
    """
    mirrored = tf.reshape(numbers < 2 ** (BITS - 1), [-1, 1])
    # `tf.reverse` and a choice between rows are ten times as fast as a slice and five axes.
    rows = [tf.reshape(each, [mirrored.shape[0], -1]) for each in (tf.reverse(images, [3]), images)]
    return tf.reshape(tf.where(mirrored, *rows), images.shape)


def recolor(images: tf.Tensor, numbers: tf.Tensor, largest: float) -> tf.Tensor:
    """Changes brightness, contrast and saturation of each image.

    Args:
        images: Images.
        numbers: int32 `[3, N, S]`, uniform below `2**BITS`.
        largest: Largest relative change of each, 0 to 1.
    """
    height, width, channels = images.shape[2:]
    one = 2**_FACTOR
    factors = one + _scale(numbers, largest, _FACTOR)[..., tf.newaxis, tf.newaxis, tf.newaxis]
    brightness, contrast, saturation = tf.unstack(factors)
    sums = tf.reduce_sum(tf.cast(images, tf.int32), axis=4, keepdims=True)  # 3 times the grey
    total = tf.reduce_sum(tf.reduce_sum(sums, axis=3, keepdims=True), axis=2, keepdims=True)
    # All three changes are linear: a pixel's new value is `own * pixel + others * sum + constant`.
    both = brightness * contrast
    own = _divide(both * saturation, one**2)
    others = _divide(both * (one - saturation), channels * one**2)
    mean = _divide(brightness * (one - contrast), one) * tf.cast(total, tf.int64)
    constant = _divide(mean, height * width * channels)
    own, others, constant = (tf.cast(value, tf.float32) for value in (own, others, constant))
    pixels = tf.cast(images, tf.float32) * own + (tf.cast(sums, tf.float32) * others + constant)
    pixels = tf.clip_by_value(tf.floor(pixels * (1 / one) + 0.5), 0.0, 255.0)
    return tf.cast(pixels, images.dtype)


def distort(images: tf.Tensor, numbers: tf.Tensor, largest: float) -> tf.Tensor:
    """Moves the pixels of each image by an affine map; see `anil_tf.EpisodeSampler`.

    Between pixels it interpolates linearly; beyond the edge are the pixels of the edge.

    Args:
        images: Images.
        numbers: int32 `[N, S, 2, 3]`, uniform below `2**BITS`.
        largest: Largest coefficient, in coordinates from -1 to 1 across the image.
    """
    height, width, channels = images.shape[2:]
    # Where the pixel (x, y) of the new image lies in the old one: x' = x + (a x + b y + c) W / 2
    # with x and y from -1 to 1 on the right, y' alike with H.
    changes = tf.reshape(_scale(numbers, largest, _COEFFICIENT), [-1, 2, 3])
    unit = 2 ** (_COEFFICIENT + 1 - _PLACE)
    pixels = [tf.range(size, dtype=tf.int64) for size in (width, height)]
    starts, weights = [], []
    for axis, size in enumerate((width, height)):
        terms = [
            _divide(
                changes[:, axis, side, tf.newaxis] * (2 * pixel - length + 1) * size, length * unit
            )
            for side, (pixel, length) in enumerate(zip(pixels, (width, height), strict=True))
        ]
        terms[axis] += pixels[axis] * 2**_PLACE + _divide(changes[:, axis, 2:] * size, unit)
        across, down = (tf.cast(term, tf.float32) for term in terms)
        place = across[:, tf.newaxis] + down[..., tf.newaxis]
        place = tf.clip_by_value(place, 0.0, float((size - 1) * 2**_PLACE))
        starts.append(tf.floor(place * 2.0**-_PLACE))
        weights.append((place - starts[-1] * 2**_PLACE)[..., tf.newaxis])
    # The four neighbours of a pixel are the bytes of one integer: they are looked up once.
    flat = tf.cast(tf.reshape(images, [-1, height, width, channels]), tf.int32)
    pairs = _join(flat, tf.concat([flat[:, :, 1:], flat[:, :, -1:]], axis=2), 8)
    corners = _join(pairs, tf.concat([pairs[:, 1:], pairs[:, -1:]], axis=1), 16)
    corners = tf.reshape(corners, [-1, height * width, channels])
    places = tf.cast(tf.reshape(starts[1] * width + starts[0], [-1, height * width]), tf.int32)
    found = tf.reshape(tf.gather(corners, places, batch_dims=1), flat.shape)
    corner = [
        tf.cast(tf.bitwise.bitwise_and(tf.bitwise.right_shift(found, bits), 255), tf.float32)
        for bits in (0, 8, 16, 24)
    ]
    upper, lower = (
        first * 2**_PLACE + (second - first) * weights[0]
        for first, second in (corner[:2], corner[2:])
    )
    pixels = upper * 2**_PLACE + (lower - upper) * weights[1]
    pixels = tf.floor(pixels * 2.0 ** (-2 * _PLACE))
    return tf.reshape(tf.cast(pixels, images.dtype), images.shape)


def _join(low: tf.Tensor, high: tf.Tensor, bits: int) -> tf.Tensor:
    """Integers whose low `bits` are those of `low`, with `high` above them."""
    return tf.bitwise.bitwise_or(low, tf.bitwise.left_shift(high, bits))


def _scale(numbers: tf.Tensor, largest: float, digits: int) -> tf.Tensor:
    """int64 numbers from -largest to largest with so many binary digits after the point."""
    spread = 2 * tf.cast(numbers, tf.int64) - 2**BITS
    return _divide(spread * round(largest * 2**digits), 2**BITS)


def _divide(number: tf.Tensor, divisor: int) -> tf.Tensor:
    """The nearest integer to a quotient."""
    return (2 * number + divisor) // (2 * divisor)
