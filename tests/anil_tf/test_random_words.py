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


def test_numbers_in_a_range_are_tensorflows():
    seeds = tf.bitcast(SEEDS, tf.uint64)
    np.testing.assert_array_equal(
        random_words.below(seeds, 9, 7).numpy(),
        drawn(
            lambda seed: tf.random.stateless_uniform([9], seed, minval=0, maxval=7, dtype=tf.int32)
        ),
    )
    np.testing.assert_array_equal(
        random_words.between(seeds, 2, [0.5, -3.0], [0.75, 9.0]).numpy(),
        drawn(lambda seed: tf.random.stateless_uniform([2], seed, [0.5, -3.0], [0.75, 9.0])),
    )


def test_distinct_numbers_are_below_their_count_and_uniform():
    seeds = tf.bitcast(tf.stack([tf.range(2000, dtype=tf.int64)] * 2, axis=1), tf.uint64)
    counts = np.tile([3, 5], [2000, 1])
    chosen = random_words.distinct(seeds, tf.constant(counts), 3, widest=5).numpy()
    assert chosen.shape == (2000, 2, 3)
    assert all(len(set(row)) == 3 for row in chosen.reshape(-1, 3))
    for row, count in enumerate(counts[0]):
        seen = np.bincount(chosen[:, row].ravel(), minlength=5)
        assert not seen[count:].any()
        np.testing.assert_allclose(seen[:count] / seen.sum(), 1 / count, atol=0.02)
