"""Episodes: few-shot tasks drawn by index from a seed, so that each can be drawn again."""

import numpy as np
import tensorflow as tf

from anil_tf.augmentation import TURNS, distort, flip, recolor, rotate
from anil_tf.datasets.images import ClassImages
from anil_tf.episode_data import INPUTS, remember_redraw


class _Sampler:
    """Turns `draw(index)` into data sets of known length."""

    def draw(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """One episode as tensors."""
        raise NotImplementedError

    def episode(self, index: int) -> dict[str, np.ndarray]:
        """Episode `index`: arrays `support_x [M, ...]`, `support_y [M]`, `query_x`, `query_y`."""
        episode = self.draw(tf.constant(index, tf.int64))
        return {name: tensor.numpy() for name, tensor in episode.items()}

    def dataset(self, batches: int, tasks: int, start: int = 0) -> tf.data.Dataset:
        """Meta-batches of consecutive episodes, for `fit` and `evaluate`.

        Episode `start` is the first; batch `b` holds the `tasks` episodes from `start + b * tasks`
        on. A run that stopped after `b` batches resumes with `start + b * tasks`.

        **With `epochs=n`, `fit` of a model of this package draws new episodes in each epoch**:
        epoch `e`, counted from 0, begins with episode `start + e * batches * tasks`. Validation
        data stays the same in each epoch, and so does a data set derived from this one by `map` or
        `take`, given together with `steps_per_epoch`, or read by another Keras model: there, ask
        for `n * batches` batches and give `fit` the argument `steps_per_epoch=batches`.

        Args:
            batches: Number of batches; the cardinality of the data set.
            tasks: Number of episodes per batch, T.
            start: Index of the first episode.

        Returns:
            Elements `({"support_x": [T, M, ...], "support_y": [T, M], "query_x": [T, Q, ...]},
            query_y [T, Q])`.
        """
        episodes = batches * tasks

        def draw_from(first: int | tf.Variable) -> tf.data.Dataset:
            # A known range of indices: with a generator of unknown length Keras would run a
            # phantom step in each epoch.
            indices = tf.data.Dataset.range(start, start + episodes)
            if isinstance(first, tf.Variable):
                indices = indices.map(lambda index: index + first)
            drawn = indices.map(self.draw, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
            return drawn.batch(tasks, drop_remainder=True).map(split).prefetch(tf.data.AUTOTUNE)

        def split(episode: dict[str, tf.Tensor]) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
            return {name: episode[name] for name in INPUTS}, episode["query_y"]

        return remember_redraw(draw_from(0), draw_from, episodes)


class EpisodeSampler(_Sampler):
    """N-way K-shot classification tasks.

    Episode i draws N distinct classes and, in each, K support and Q other query images. The draw
    depends on `(seed, i)` alone.

    Args:
        data: The classes to draw from.
        ways: Number of classes per task, N.
        shots: Number of support images per class, K; or `(least, most)` to draw a number from that
            range for each class of each episode. Batches then pad every class to `most` images.
            The padding has the label -1, which the inner loop ignores. `episode` has no padding.
        queries: Number of query images per class, Q.
        seed: Seed of all draws.
        rotations: Whether to rotate each drawn class by a random multiple of 90 degrees, which
            makes new classes of drawn characters (Santoro et al. 2016). As in MAML's code, the
            characters of an episode are distinct: no two of its classes are rotations of each
            other.
        distortion: Largest coefficient of a random affine function of the coordinates (-1 to 1
            across the image) that is added to them, for each image anew. 0.15 rotates by up to 9
            degrees, scales by up to 15 % and shifts by up to 7 % of the width. For training. Koch
            et al. (2015) also made new drawings of Omniglot by affine maps.
        flips: Whether to mirror a random half of the images left to right. For training.
        recoloring: Largest relative change of each image's brightness, contrast and saturation,
            0 to 1. For training.

    Raises:
        ValueError: There are too few classes or too few images in a class, which is named; the
            images to rotate are not square; or a strength is out of its range.
    """

    def __init__(
        self,
        data: ClassImages,
        ways: int,
        shots: int | tuple[int, int],
        queries: int,
        seed: int = 0,
        rotations: bool = False,
        distortion: float = 0.0,
        flips: bool = False,
        recoloring: float = 0.0,
    ) -> None:
        least, most = (shots, shots) if isinstance(shots, int) else shots
        for name, value in (("ways", ways), ("shots", least), ("queries", queries)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1. Received: {name}={value}")
        if most < least:
            raise ValueError(f"shots must be (least, most). Received: shots={shots}")
        if len(data.names) < ways:
            raise ValueError(
                f"{ways}-way episodes need at least {ways} classes. "
                f"Received: {len(data.names)} classes"
            )
        scarcest = int(np.argmin(data.counts))
        if data.counts[scarcest] < most + queries:
            raise ValueError(
                f"{most} shots and {queries} queries need {most + queries} images per class. "
                f"Received: class {data.names[scarcest]!r} with {data.counts[scarcest]}"
            )
        changed = rotations or distortion or flips or recoloring
        if changed and data.images.ndim != 4:
            raise ValueError(
                "rotations, distortion, flips and recoloring are for pictures [n, H, W, C]. "
                f"Received: data of shape {list(data.images.shape)}"
            )
        height, width = data.images.shape[1:3]
        if rotations and height != width:
            raise ValueError(f"rotations need square images. Received: {height}x{width}")
        if not 0 <= distortion <= 0.5:
            raise ValueError(f"distortion is from 0 to 0.5. Received: {distortion}")
        if not 0 <= recoloring <= 1:
            raise ValueError(f"recoloring is from 0 to 1. Received: {recoloring}")
        self.data = data
        self.ways, self.shots, self.queries = ways, shots, queries
        self._least, self._most = least, most
        self.seed, self.rotations, self.distortion = seed, rotations, distortion
        self.flips, self.recoloring = flips, recoloring
        with tf.device("CPU"):
            self._images = tf.constant(data.images)
            self._counts, self._starts = tf.constant(data.counts), tf.constant(data.starts)

    def episode(self, index: int) -> dict[str, np.ndarray]:
        """Episode `index`, without padding; `classes [N]` are indices of `data.names`."""
        episode = super().episode(index)
        counted = episode["support_y"] >= 0
        return episode | {name: episode[name][counted] for name in ("support_x", "support_y")}

    def draw(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """One episode, padded; see `episode`."""
        images, classes = self._draw_images(index)
        labels = tf.range(self.ways)
        flat = [-1, *self.data.images.shape[1:]]
        return {
            "support_x": tf.reshape(images[:, : self._most], flat),
            "support_y": self._draw_support_labels(index),
            "query_x": tf.reshape(images[:, self._most :], flat),
            "query_y": tf.repeat(labels, self.queries),
            "classes": classes // TURNS if self.rotations else classes,
        }

    def _draw_support_labels(self, index: tf.Tensor) -> tf.Tensor:
        """Labels `[N * most]` of the support images, -1 for those that are padding."""
        labels = tf.repeat(tf.range(self.ways), self._most)
        if self._least == self._most:
            return labels
        seed = _fold_in(_seeds(self.seed, index, 1)[0], 1)
        counts = tf.random.stateless_uniform(
            [self.ways], seed, self._least, self._most + 1, tf.int32
        )
        counted = tf.range(self._most) < counts[:, tf.newaxis]
        return tf.where(tf.reshape(counted, [-1]), labels, -1)

    def _draw_images(self, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Images `[N, K + Q, H, W, C]` of distinct classes, and the indices of those classes."""
        class_seed, image_seed, turn_seed, distortion_seed = _seeds(self.seed, index, 4)
        classes = _distinct(class_seed, tf.fill([1], len(self.data.names)), self.ways)[0]
        rows = _distinct(image_seed, tf.gather(self._counts, classes), self._most + self.queries)
        rows += tf.gather(self._starts, classes)[:, tf.newaxis]
        images = tf.gather(self._images, rows)
        if self.distortion:
            images = distort(images, distortion_seed, self.distortion)
        if self.flips:
            images = flip(images, _fold_in(distortion_seed, 1))
        if self.recoloring:
            images = recolor(images, _fold_in(distortion_seed, 2), self.recoloring)
        if not self.rotations:
            return images, classes
        turns = tf.random.stateless_uniform([self.ways], turn_seed, 0, TURNS, tf.int32)
        return rotate(images, turns), classes * TURNS + tf.cast(turns, classes.dtype)


class ClassSampler(EpisodeSampler):
    """The images of `EpisodeSampler`'s episodes as batches for one classifier of all classes.

    All images are queries, labelled by their class among all classes. A rotated class is another
    class. The support set is empty. The arguments are those of `EpisodeSampler`.
    """

    @property
    def labels(self) -> int:
        """Number of classes among all labels."""
        return len(self.data.names) * (TURNS if self.rotations else 1)

    def draw(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """One batch; see `episode`."""
        images, classes = self._draw_images(index)
        shape = self.data.images.shape[1:]
        return {
            "support_x": tf.zeros([0, *shape], images.dtype),
            "support_y": tf.zeros([0], tf.int32),
            "query_x": tf.reshape(images, [-1, *shape]),
            "query_y": tf.repeat(tf.cast(classes, tf.int32), self._most + self.queries),
        }


class SinusoidSampler(_Sampler):
    """Regression of sine waves (Finn et al. 2017, section 5.1).

    Amplitude in [0.1, 5], phase in [0, pi], inputs in [-5, 5].

    Args:
        shots: Number of support points, K.
        queries: Number of query points, Q.
        seed: Seed of all draws.
    """

    def __init__(self, shots: int, queries: int, seed: int = 0) -> None:
        self.shots, self.queries, self.seed = shots, queries, seed

    def draw(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """One episode; inputs and targets are float32 `[K, 1]` and `[Q, 1]`."""
        wave_seed, x_seed = _seeds(self.seed, index, 2)
        amplitude, phase = tf.unstack(
            tf.random.stateless_uniform([2], wave_seed, [0.1, 0.0], [5.0, np.pi])
        )
        x = tf.random.stateless_uniform([self.shots + self.queries, 1], x_seed, -5.0, 5.0)
        y = amplitude * tf.sin(x - phase)
        return {
            "support_x": x[: self.shots],
            "support_y": y[: self.shots],
            "query_x": x[self.shots :],
            "query_y": y[self.shots :],
        }


def _seeds(seed: int, index: tf.Tensor, count: int) -> list[tf.Tensor]:
    """Independent seeds for the draws of one episode."""
    pair = tf.stack([tf.constant(seed, tf.int64), index])
    return tf.unstack(tf.random.experimental.stateless_split(pair, count))


def _fold_in(seed: tf.Tensor, number: int) -> tf.Tensor:
    """Another seed, so that a further draw leaves the others as they are."""
    return tf.random.experimental.stateless_fold_in(seed, number)


def _distinct(seed: tf.Tensor, counts: tf.Tensor, draws: int) -> tf.Tensor:
    """For each count n, `draws` different integers below n, in random order: `[len, draws]`."""
    counts = tf.cast(counts, tf.int32)
    width = tf.reduce_max(counts)
    keys = tf.random.stateless_uniform([tf.size(counts), width], seed)
    keys = tf.where(tf.range(width) < counts[:, tf.newaxis], keys, -1.0)
    return tf.cast(tf.math.top_k(keys, draws).indices, tf.int64)
