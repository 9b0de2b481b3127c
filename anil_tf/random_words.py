"""Random numbers of many seeds at once: those of `tf.random.stateless_uniform`, which takes one.

A meta-batch has a seed per episode. TensorFlow's functions draw from one seed at a time, which is a
kernel per episode and draw; these draw for all episodes in one pass, and the same numbers on every
device: Philox 4x32-10 (Salmon et al. 2011, https://doi.org/10.1145/2063384.2063405), with the keys
that TensorFlow derives from its seeds.

Numbers are words, uint64 tensors with values below 2^32. A seed is a pair `[..., 2]` of uint64.
"""

import numpy as np
import tensorflow as tf

BITS = 23  # of a uniform float, which is `fraction / 2**BITS`

_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
_SEED_KEY = 0x3EC8F720, 0x02461E29  # the key by which TensorFlow mixes the bits of a seed
_ROUNDS = 10
_LOW = 0xFFFFFFFF  # the lower 32 bits
_ANY = tf.TensorSpec(None, tf.uint64)


def words(seeds: tf.Tensor, count: int) -> tf.Tensor:
    """The first `count` words of each seed: `[..., 2] -> [..., count]`."""
    key = [_constant(number) for number in _SEED_KEY]
    first, second = tf.unstack(seeds, axis=-1)
    mixed = _philox([*_halves(first), *_halves(second)], key)
    blocks = -(-count // 4)
    each = [tf.expand_dims(number, -1) for number in mixed]
    zero = tf.zeros_like(each[0])
    counter = [_constant(list(range(blocks))) + zero, zero, each[2], each[3]]
    numbers = tf.stack(_philox(counter, each[:2]), axis=-1)
    return tf.reshape(numbers, [*seeds.shape[:-1], 4 * blocks])[..., :count]


def fractions(seeds: tf.Tensor, count: int) -> tf.Tensor:
    """Integers below `2**BITS`, int32: the digits of `tf.random.stateless_uniform([count], seed)`.

    As integers they are compared and scaled alike on every device.
    """
    digits = tf.bitwise.bitwise_and(words(seeds, count), _constant(2**BITS - 1))
    return tf.cast(digits, tf.int32)


def split(seeds: tf.Tensor, count: int) -> tf.Tensor:
    """Independent seeds, as of `tf.random.split`: `[..., 2] -> [..., count, 2]`."""
    low, high = tf.unstack(
        tf.reshape(words(seeds, 4 * count), [*seeds.shape[:-1], count, 2, 2]), axis=-1
    )
    return low + tf.bitwise.left_shift(high, _constant(32))


def fold_in(seeds: tf.Tensor, number: int) -> tf.Tensor:
    """Other seeds, as of `tf.random.fold_in` with an int32: the draws of the old ones stay."""
    word = tf.bitcast(tf.cast(words(seeds, 1)[..., 0], tf.uint32), tf.int32)
    first = tf.cast(word, tf.uint64)  # keeps the sign
    return tf.stack([first, tf.fill(tf.shape(first), _constant(number))], axis=-1)


def below(seeds: tf.Tensor, count: int, bound: int) -> tf.Tensor:
    """int32 numbers from 0 below a bound, as of `tf.random.stateless_uniform`: `[..., count]`."""
    return tf.cast(words(seeds, count) % _constant(bound), tf.int32)


def between(
    seeds: tf.Tensor, count: int, least: list[float] | float, most: list[float] | float
) -> tf.Tensor:
    """float32 numbers in a range, as of `tf.random.stateless_uniform`: `[..., count]`.

    Args:
        seeds: Seeds `[..., 2]`.
        count: Number of draws per seed.
        least: Lower end of the range, or one for each draw.
        most: Upper end of the range, likewise.
    """
    first, last = tf.constant(least), tf.constant(most)
    return tf.cast(fractions(seeds, count), tf.float32) * 2.0**-BITS * (last - first) + first


def distinct(seeds: tf.Tensor, counts: tf.Tensor, draws: int, widest: int) -> tf.Tensor:
    """For each count n, `draws` different integers below n, in random order.

    Args:
        seeds: Seed of each episode, `[T, 2]`.
        counts: Numbers to draw below, `[T, R]`.
        draws: Number of integers, at most the smallest count.
        widest: The largest possible count, known when the graph is built.

    Returns:
        int64 `[T, R, draws]`: the places of the largest of n random numbers.
    """
    counts = tf.cast(counts, tf.int32)[..., tf.newaxis]
    tasks, rows = counts.shape[:2]
    numbers = fractions(seeds, rows * widest)
    # An episode's numbers are laid out by its own largest count, whatever that of the data.
    width = tf.reduce_max(counts, axis=1, keepdims=True)
    column = np.arange(widest, dtype=np.int32)
    places = np.arange(rows, dtype=np.int32)[:, np.newaxis] * width + column
    numbers = tf.gather(numbers, tf.reshape(places, [tasks, -1]), batch_dims=1)
    numbers = tf.where(counts > column, tf.reshape(numbers, [tasks, rows, widest]), -1)
    # The column in the lower digits decides between equal numbers, which devices order differently.
    keys = tf.cast(numbers, tf.int64) * 2**32 - column.astype(np.int64)
    return tf.cast(tf.math.top_k(keys, draws).indices, tf.int64)


@tf.function(input_signature=[[_ANY] * 4, [_ANY] * 2], autograph=False)
def _philox(counter: list[tf.Tensor], key: list[tf.Tensor]) -> list[tf.Tensor]:
    # A function, since a hundred small operations one by one take longer than an episode. It has
    # few nodes, since TensorFlow prepares each of them anew for every iterator of a data set.
    a, b, c, d = counter
    first, second = (_constant(number) for number in _MULTIPLIERS)
    mask, bits, xor = _constant(_LOW), _constant(32), tf.bitwise.bitwise_xor
    for left, right in zip(*map(_keys_of_rounds, key, _KEY_STEPS), strict=True):
        of_a, of_c = a * first, c * second
        a = xor(xor(tf.bitwise.right_shift(of_c, bits), b), left)
        c = xor(xor(tf.bitwise.right_shift(of_a, bits), d), right)
        b, d = tf.bitwise.bitwise_and(of_c, mask), tf.bitwise.bitwise_and(of_a, mask)
    return [a, b, c, d]


def _keys_of_rounds(key: tf.Tensor, step: int) -> list[tf.Tensor]:
    """The key of each round, which grows by a step per round."""
    steps = _constant([step * number for number in range(_ROUNDS)])
    keys = tf.bitwise.bitwise_and(tf.expand_dims(key, -1) + steps, _constant(_LOW))
    return tf.unstack(keys, _ROUNDS, axis=-1)


def _halves(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The lower and the higher 32 bits."""
    low = tf.bitwise.bitwise_and(number, _constant(_LOW))
    return low, tf.bitwise.right_shift(number, _constant(32))


def _constant(number: int | list[int]) -> tf.Tensor:
    return tf.constant(number, tf.uint64)
