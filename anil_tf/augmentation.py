"""Random changes to the images of an episode, each decided by a seed.

All take uint8 or float images `[N, S, H, W, C]`, S of each of N classes, with pixels from 0 to 255,
and return the same shape and dtype.
"""

import keras
import tensorflow as tf

TURNS = 4  # multiples of 90 degrees


def rotate(images: tf.Tensor, turns: tf.Tensor) -> tf.Tensor:
    """Rotates the images of each class by `turns[n]` times 90 degrees."""
    upside_down = images[:, :, ::-1, ::-1]
    half = tf.where(_per_class(turns >= 2), upside_down, images)
    quarter = tf.transpose(half, [0, 1, 3, 2, 4])[:, :, ::-1]
    return tf.where(_per_class(turns % 2 == 1), quarter, half)


def flip(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Mirrors a random half of the images, left to right."""
    mirrored = tf.random.stateless_uniform(images.shape[:2], seed) < 0.5
    return tf.where(
        mirrored[:, :, tf.newaxis, tf.newaxis, tf.newaxis], images[:, :, :, ::-1], images
    )


def recolor(images: tf.Tensor, seed: tf.Tensor, largest: float) -> tf.Tensor:
    """Changes brightness, contrast and saturation of each image.

    Args:
        images: Images.
        seed: Seed `[2]`.
        largest: Largest relative change of each, 0 to 1.
    """
    factors = tf.random.stateless_uniform([3, *images.shape[:2], 1, 1, 1], seed, -largest, largest)
    brightness, contrast, saturation = tf.unstack(1.0 + factors)
    pixels = tf.cast(images, tf.float32) * brightness
    mean = tf.reduce_mean(pixels, axis=[2, 3, 4], keepdims=True)
    pixels = mean + (pixels - mean) * contrast
    grey = tf.reduce_mean(pixels, axis=4, keepdims=True)
    pixels = tf.clip_by_value(grey + (pixels - grey) * saturation, 0.0, 255.0)
    return tf.cast(tf.round(pixels), images.dtype)


def distort(images: tf.Tensor, seed: tf.Tensor, largest: float) -> tf.Tensor:
    """Moves the pixels of each image by an affine map; see `anil_tf.EpisodeSampler`.

    Args:
        images: Images.
        seed: Seed `[2]`.
        largest: Largest coefficient, in coordinates from -1 to 1 across the image.
    """
    height, width = images.shape[2:4]
    flat = tf.reshape(images, [-1, *images.shape[2:]])
    change = tf.random.stateless_uniform([flat.shape[0], 2, 3], seed, -largest, largest)
    size = tf.constant([[width], [height]], tf.float32)
    centre = (size - 1) / 2
    # Where the pixel (x, y) of the new image lies in the old one: x' = a x + b y + c, y' alike.
    linear = tf.eye(2) + change[:, :, :2] * size / tf.transpose(size)
    offset = centre + change[:, :, 2:] * size / 2 - tf.matmul(linear, centre)
    rows = tf.reshape(tf.concat([linear, offset], axis=2), [-1, 6])
    maps = tf.pad(rows, [[0, 0], [0, 2]])  # no perspective
    return tf.reshape(
        keras.ops.image.affine_transform(flat, maps, fill_mode="nearest"), images.shape
    )


def _per_class(flags: tf.Tensor) -> tf.Tensor:
    return tf.reshape(flags, [-1, 1, 1, 1, 1])
