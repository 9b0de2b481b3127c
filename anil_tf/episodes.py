"""Episodes: few-shot tasks drawn by index from a seed, so that each can be drawn again."""

import copy
import functools
from collections.abc import Callable
from typing import Self

import numpy as np
import tensorflow as tf

from anil_tf import random_words
from anil_tf.augmentation import TURNS, distort, flip, recolor, rotate
from anil_tf.datasets.images import ClassImages
from anil_tf.episode_data import IMAGE_CLASSES, DrawOn, Plan


class _Sampler:
    """Turns `draw_batch(indices)` into data sets of known length."""

    def draw_batch(self, indices: tf.Tensor) -> dict[str, tf.Tensor]:
        """Episodes `indices [T]`, int64, as tensors `[T, ...]`."""
        raise NotImplementedError

    def on_device(self) -> Self | None:
        """The same sampler with its data in the memory of the device that trains.

        Returns:
            None where there is nothing to keep there, or not enough memory.
        """
        return None

    def draw(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """One episode as tensors."""
        batch = self.draw_in_graph(tf.cast(index, tf.int64)[tf.newaxis])
        return {name: tensor[0] for name, tensor in batch.items()}

    @functools.cached_property
    def draw_in_graph(self) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
        """`draw_batch` as a graph, which is traced once for each number of episodes.

        Hundreds of small operations one by one take longer than the drawing, and so does tracing
        them anew for each data set.
        """
        return tf.function(self.draw_batch, autograph=False)

    def episode(self, index: int) -> dict[str, np.ndarray]:
        """Episode `index`: arrays `support_x [M, ...]`, `support_y [M]`, `query_x`, `query_y`."""
        episode = self.draw(tf.constant(index, tf.int64))
        return {name: tensor.numpy() for name, tensor in episode.items()}

    def dataset(
        self, batches: int, tasks: int, start: int = 0, draw_on: DrawOn = "auto"
    ) -> tf.data.Dataset:
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
            draw_on: Where `fit` of a model of this package draws the episodes: on the `"host"`,
                ahead of the steps; or on the `"device"`, within the steps, from images in its
                memory. The episodes are the same. `"auto"` is the device if the model is compiled
                by XLA for a GPU and the images fit its memory.

        Returns:
            Elements `({"support_x": [T, M, ...], "support_y": [T, M], "query_x": [T, Q, ...]},
            query_y [T, Q])`.
        """
        return Plan(self, batches, tasks, start, draw_on).dataset()


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
        image_classes: Whether data sets also have `image_classes [T, M + Q]`, the class of each
            support and then each query image among all `classes`; padding has -1. For training.

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
        image_classes: bool = False,
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
        self.image_classes = image_classes
        with tf.device("CPU"):
            self._images = tf.constant(data.images)
            self._counts, self._starts = tf.constant(data.counts), tf.constant(data.starts)
        self._on_device: Self | None = None

    @property
    def labels(self) -> int:
        """Number of classes among all labels."""
        return self.ways

    @property
    def classes(self) -> int:
        """Number of classes of the data; a rotated class is another class."""
        return len(self.data.names) * (TURNS if self.rotations else 1)

    def on_device(self) -> Self | None:
        """The same sampler with its images in the memory of the GPU; itself without a GPU.

        Returns:
            None where the memory does not suffice.
        """
        gpus = tf.config.list_logical_devices("GPU")
        if self._on_device is None and gpus:
            moved = copy.copy(self)
            moved.__dict__.pop("draw_in_graph", None)  # it has the images of the host
            try:
                with tf.device(gpus[0].name):
                    for name in ("_images", "_counts", "_starts"):
                        setattr(moved, name, tf.identity(getattr(self, name)))
            except tf.errors.ResourceExhaustedError:
                return None
            self._on_device = moved
        return self._on_device or self

    def episode(self, index: int) -> dict[str, np.ndarray]:
        """Episode `index`, without padding; `classes [N]` are indices of `data.names`."""
        episode = super().episode(index)
        episode.pop(IMAGE_CLASSES, None)
        counted = episode["support_y"] >= 0
        return episode | {name: episode[name][counted] for name in ("support_x", "support_y")}

    def draw_batch(self, indices: tf.Tensor) -> dict[str, tf.Tensor]:
        """Episodes `indices [T]`, int64, padded; `classes [T, N]` are indices of `data.names`."""
        images, classes = self._draw_images(indices)
        tasks = images.shape[0]
        flat = [tasks, -1, *self.data.images.shape[1:]]
        query_y = np.repeat(np.arange(self.ways, dtype=np.int32), self.queries)
        support_y = self._draw_support_labels(indices)
        episodes = {
            "support_x": tf.reshape(images[:, :, : self._most], flat),
            "support_y": support_y,
            "query_x": tf.reshape(images[:, :, self._most :], flat),
            "query_y": tf.constant(np.tile(query_y, [tasks, 1])),
            "classes": classes // TURNS if self.rotations else classes,
        }
        if self.image_classes:
            numbers = tf.cast(classes, tf.int32)
            of_support = tf.where(support_y < 0, -1, tf.repeat(numbers, self._most, axis=1))
            of_query = tf.repeat(numbers, self.queries, axis=1)
            episodes[IMAGE_CLASSES] = tf.concat([of_support, of_query], axis=1)
        return episodes

    def _draw_support_labels(self, indices: tf.Tensor) -> tf.Tensor:
        """Labels `[T, N * most]` of the support images, -1 for those that are padding."""
        labels = np.repeat(np.arange(self.ways, dtype=np.int32), self._most)
        if self._least == self._most:
            return tf.constant(np.tile(labels, [indices.shape[0], 1]))
        seeds = random_words.fold_in(random_words.split(_seeds(self.seed, indices), 1)[:, 0], 1)
        span = self._most + 1 - self._least
        counts = self._least + random_words.below(seeds, self.ways, span)
        counted = counts[..., tf.newaxis] > np.arange(self._most, dtype=np.int32)
        return tf.where(tf.reshape(counted, [indices.shape[0], -1]), labels, -1)

    def _draw_images(self, indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Images `[T, N, K + Q, H, W, C]` of distinct classes, and those classes `[T, N]`."""
        tasks, ways, rows = indices.shape[0], self.ways, self._most + self.queries
        seeds = random_words.split(_seeds(self.seed, indices), 4)
        class_seeds, image_seeds, turn_seeds, change_seeds = tf.unstack(seeds, axis=1)
        known = len(self.data.names)
        classes = random_words.distinct(class_seeds, tf.fill([tasks, 1], known), ways, known)[:, 0]
        counts, widest = tf.gather(self._counts, classes), int(self.data.counts.max())
        chosen = random_words.distinct(image_seeds, counts, rows, widest)
        chosen += tf.gather(self._starts, classes)[..., tf.newaxis]
        shape = self.data.images.shape[1:]
        images = tf.reshape(tf.gather(self._images, chosen), [tasks * ways, rows, *shape])
        if self.distortion:
            numbers = random_words.fractions(change_seeds, ways * rows * 6)
            numbers = tf.reshape(numbers, [tasks * ways, rows, 2, 3])
            images = distort(images, numbers, self.distortion)
        if self.flips:
            numbers = random_words.fractions(random_words.fold_in(change_seeds, 1), ways * rows)
            images = flip(images, tf.reshape(numbers, [-1, rows]))
        if self.recoloring:
            numbers = random_words.fractions(random_words.fold_in(change_seeds, 2), 3 * ways * rows)
            numbers = tf.transpose(tf.reshape(numbers, [tasks, 3, ways, rows]), [1, 0, 2, 3])
            images = recolor(images, tf.reshape(numbers, [3, -1, rows]), self.recoloring)
        if self.rotations:
            turns = random_words.below(turn_seeds, ways, TURNS)
            images = rotate(images, tf.reshape(turns, [-1]))
            classes = classes * TURNS + tf.cast(turns, classes.dtype)
        return tf.reshape(images, [tasks, ways, rows, *shape]), classes


class ClassSampler(EpisodeSampler):
    """The images of `EpisodeSampler`'s episodes as batches for one classifier of all classes.

    All images are queries, labelled by their class among all classes. A rotated class is another
    class. The support set is empty. The arguments are those of `EpisodeSampler`.
    """

    @property
    def labels(self) -> int:
        """Number of classes among all labels."""
        return self.classes

    def draw_batch(self, indices: tf.Tensor) -> dict[str, tf.Tensor]:
        """Batches `indices [T]`, int64."""
        images, classes = self._draw_images(indices)
        tasks, shape = images.shape[0], self.data.images.shape[1:]
        return {
            "support_x": tf.zeros([tasks, 0, *shape], images.dtype),
            "support_y": tf.zeros([tasks, 0], tf.int32),
            "query_x": tf.reshape(images, [tasks, -1, *shape]),
            "query_y": tf.repeat(tf.cast(classes, tf.int32), images.shape[2], axis=1),
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

    def draw_batch(self, indices: tf.Tensor) -> dict[str, tf.Tensor]:
        """Episodes `indices [T]`; inputs and targets are float32 `[T, K, 1]` and `[T, Q, 1]`."""
        seeds = random_words.split(_seeds(self.seed, indices), 2)
        waves = random_words.between(seeds[:, 0], 2, [0.1, 0.0], [5.0, np.pi])
        amplitude, phase = tf.unstack(waves[..., tf.newaxis, tf.newaxis], axis=1)
        x = random_words.between(seeds[:, 1], self.shots + self.queries, -5.0, 5.0)[..., tf.newaxis]
        y = amplitude * tf.sin(x - phase)
        return {
            "support_x": x[:, : self.shots],
            "support_y": y[:, : self.shots],
            "query_x": x[:, self.shots :],
            "query_y": y[:, self.shots :],
        }


def _seeds(seed: int, indices: tf.Tensor) -> tf.Tensor:
    """A seed for each episode, `[T, 2]`."""
    pair = tf.stack([tf.fill(tf.shape(indices), tf.constant(seed, tf.int64)), indices], axis=1)
    return tf.bitcast(tf.ensure_shape(pair, [indices.shape[0], 2]), tf.uint64)
