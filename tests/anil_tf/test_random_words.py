"""Random numbers of many seeds at once are those that TensorFlow draws from each of them."""

import numpy as np
import tensorflow as tf

from anil_tf import random_words

SEEDS = tf.constant([[5, 7], [-3, 2**40 + 1], [2**62, -1]], tf.int64)


def drawn(function):
    """What one of TensorFlow's functions draws from each seed."""
    return np.stack([function(seed).numpy() for seed in SEEDS])


def test_words_splits_and_folds_are_tensorflows():
    seeds = tf.bitcast(SEEDS, tf.uint64)
    whole = {"minval": None, "maxval": None, "dtype": tf.int32}
    np.testing.assert_array_equal(
        random_words.words(seeds, 10).numpy().astype(np.uint32).view(np.int32),
        drawn(lambda seed: tf.random.stateless_uniform([10], seed, **whole)),
    )
    np.testing.assert_array_equal(
        random_words.fractions(seeds, 6).numpy() / 2**random_words.BITS,
        drawn(lambda seed: tf.random.stateless_uniform([6], seed)),
    )
    np.testing.assert_array_equal(
        random_words.split(seeds, 3).numpy().view(np.int64),
        drawn(lambda seed: tf.random.split(seed, 3)),
    )
    np.testing.assert_array_equal(
        random_words.words(random_words.fold_in(seeds, 2), 5).numpy(),
        drawn(
            lambda seed: tf.random.stateless_uniform([5], tf.random.fold_in(seed, 2), **whole)
        ).view(np.uint32),
    )
