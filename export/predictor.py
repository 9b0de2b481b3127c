"""`Predictor`: learns and predicts classes of images, in Python, without TensorFlow."""

import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from anil_tf.acceptance import add_none, choose_share
from anil_tf.datasets.inputs import Images, class_names, list_images, read_pixels
from anil_tf.datasets.pictures import order_names
from anil_tf.export.head import Head, fit_head, read_head
from anil_tf.export.runtime.base import BATCH, Adaptation
from anil_tf.export.runtime.onnx import OnnxRuntime


class Predictor:
    """A bundle on ONNX Runtime, with the classes learned so far.

    It learns a head. Every change fits the head again to the features of all classes, so adding a
    class gives exactly the head that learning all classes together would give. `anil adapt` and
    `anil predict` use it.

    Images are files or Pillow images of any size, or arrays of the shape that the model takes
    (`image_shape`): uint8, pixels 0 to 255. A single image is accepted
    wherever images are, as is any iterable of them, mixed or not. Data that are not images must be
    arrays.

    Args:
        bundle: Folder of a bundle.
        head: File of a saved head to continue from; by default nothing is learned yet.
        steps: Number of inner steps; the bundle's own by default.
        learning_rate: Inner learning rate; the bundle's own by default.
        progress: Whether to show a progress bar on a terminal while images are read.

    Attributes:
        runtime: The bundle opened on ONNX Runtime.
        head: The learned head; None while there are fewer than two classes.
        milliseconds: Duration of the last fit in milliseconds, without the features.

    Raises:
        FileNotFoundError: The folder is not a bundle, or there is no such head.
        ValueError: The bundle or the head is damaged, or the head belongs to another bundle.

    Example:
        predictor = Predictor("bundle")
        predictor.learn(["a1.jpg", "a2.jpg", "b1.jpg"], ["ann", "ann", "bob"])
        predictor.add_class("cat", ["c1.jpg"])
        probabilities = predictor.predict(["new.jpg"])  # [1, 3], in the order of predictor.names
        judged = predictor.predict(["new.jpg"], accept=0.95)  # [1, 4]: or none of these
        predictor.save("head.npz")
        again = Predictor("bundle", head="head.npz")
    """

    def __init__(
        self,
        bundle: str | Path,
        head: str | Path | None = None,
        steps: int | None = None,
        learning_rate: float | None = None,
        progress: bool = False,
    ) -> None:
        self.runtime = OnnxRuntime(bundle)
        self.steps, self.learning_rate = steps, learning_rate
        self.progress = progress
        self.head: Head | None = None
        self._adaptation: Adaptation | None = None
        self.milliseconds = 0.0
        self._support: dict[str, np.ndarray] = {}
        self._opened = head
        if head is not None:
            self.head = read_head(Path(head), self.runtime.manifest)
            self._support = self.head.support

    @property
    def names(self) -> tuple[str, ...]:
        """The classes, in the order of the columns of `predict`."""
        return tuple(order_names(self._support)) if self.head is None else self.head.names

    @property
    def counts(self) -> dict[str, int]:
        """Number of images that each class was learned from."""
        return {name: len(self._support[name]) for name in self.names}

    @property
    def adaptation(self) -> Adaptation:
        """Result of the last change: the losses before and after, and the number of rows used.

        Raises:
            ValueError: Fewer than two classes were learned, or none since a head was opened.
        """
        if self._adaptation is None:
            self._learned()
            raise ValueError("This head was opened, not learned: its losses are not known")
        return self._adaptation

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images."""
        return self.runtime.image_shape

    def learn(self, images: Images, labels: Iterable[Any]) -> Head:
        """Learn classes from labelled images; those known before are forgotten.

        Args:
            images: Images of all the classes, in any order.
            labels: Class name of each image. Integers are names too. If all names are integers, the
                classes are in numerical order.

        Returns:
            The head, which the predictor keeps too.

        Raises:
            ValueError: There are fewer than two classes, images and labels do not fit, or labels
                are missing (None, NaN) or one-hot.
        """
        images, named = self._list(images), class_names(labels)
        if len(named) != len(images):
            raise ValueError(
                f"There must be one label for each image. Received: {len(images)} images, "
                f"{len(named)} labels"
            )
        names = np.array(named, np.str_)
        if len(classes := np.unique(names)) < 2:
            raise ValueError(f"labels must name at least 2 classes. Received: {classes.tolist()}")
        features = self.features(images)
        self._fit({str(name): features[names == name] for name in classes})
        return self._learned()

    def add_class(self, name: str, images: Images) -> Head | None:
        """Learn one more class. A known class of that name is learned again from these images.

        Returns:
            The head; None while there are fewer than two classes.
        """
        return self.change(add={name: images})

    def remove_class(self, name: str) -> Head | None:
        """Forget a class, and the features of its images.

        Returns:
            The head; None if fewer than two classes are left.
        """
        return self.change(remove=[name])

    def change(
        self, add: Mapping[str, Images] | None = None, remove: Collection[str] = ()
    ) -> Head | None:
        """Forget some classes and learn others, in one fit.

        Args:
            add: Images of each class to learn, by its name.
            remove: Names of the classes to forget.

        Returns:
            The head; None while there are fewer than two classes.

        Raises:
            ValueError: There is no class of that name to forget; the head keeps no features to
                learn from; there are more classes than the bundle supports; or adaptation
                diverges. Nothing has changed then.
        """
        remove = class_names(remove)
        if unknown := [name for name in remove if name not in self._support]:
            raise ValueError(
                f"There is no class {unknown[0]!r} to remove. There are: {list(self.names)}"
            )
        kept = {name: rows for name, rows in self._support.items() if name not in remove}
        if empty := [name for name in kept if not len(kept[name])]:
            raise ValueError(
                f"{self._opened} cannot be added to: it keeps no features of {empty[0]!r}. "
                "Learn all its classes from images"
            )
        self._fit(kept | self._embed(add or {}))
        return self.head

    def _embed(self, classes: Mapping[str, Images]) -> dict[str, np.ndarray]:
        """Features of each class; all images go through the backbone together."""
        if not classes:
            return {}
        names = class_names(classes.keys())
        listed = [self._list(images) for images in classes.values()]
        for name, images in zip(names, listed, strict=True):
            if not len(images):
                raise ValueError(f"There must be at least one image of {name!r}. Received: none")
        features = self.features([image for images in listed for image in images])
        ends = np.cumsum([len(images) for images in listed])[:-1]
        return dict(zip(names, np.split(features, ends), strict=True))

    def _fit(self, support: dict[str, np.ndarray]) -> None:
        if len(support) < 2:  # classes may be added one at a time: two make a head
            self.head = self._adaptation = None
        else:
            start = time.perf_counter()
            accept = None if self.head is None else self.head.accept
            head, self._adaptation = fit_head(self.runtime, support, self.learning_rate, self.steps)
            self.head = head._replace(accept=accept)
            self.milliseconds = 1000 * (time.perf_counter() - start)
        self._support = support

    def features(self, images: Images) -> np.ndarray:
        """Features float32 `[n, D]` of n images, some at a time.

        Raises:
            ValueError: There is no image, one does not decode, or an array does not fit the model.
        """
        images = self._list(images)
        if not len(images):
            raise ValueError("There must be at least one image. Received: none")
        manifest = self.runtime.manifest
        take = manifest.image_shape, manifest.image_dtype, manifest.crops
        starts = range(0, len(images), BATCH)
        hidden = None if self.progress and len(starts) > 1 else True  # None: only on a terminal
        bar = tqdm(starts, "Features", unit="batch", leave=False, disable=hidden)
        return np.concatenate(
            [
                self.runtime.features(read_pixels(images[start : start + BATCH], *take))
                for start in bar
            ]
        )

    def _list(self, images: Images) -> np.ndarray | list[Any]:
        return list_images(images, self.runtime.manifest.image_shape)

    def predict(
        self, images: Images, head: Head | None = None, accept: float | None = None
    ) -> np.ndarray:
        """Probabilities float32 `[n, N]` of n images, in the order of the head's names.

        Args:
            images: Images to classify; a single one gives `[1, N]`.
            head: A head of this bundle, such as another user's; the predictor's own by default.
            accept: Share of the images of known classes to accept, such as 0.95. The others, and
                most images of unknown classes, are none of these: the result is `[n, N + 1]`, and
                for such an image the last column is 1 and the others are 0. By default every image
                is one of the classes.

        Raises:
            ValueError: Fewer than two classes were learned, an image does not fit, the head was
                made with another backbone, or the bundle or the head cannot say that an image is
                none of the classes.
        """
        if head is None:
            head = self._learned()
        head.check_backbone(self.runtime.manifest)
        thresholds = self._thresholds(head, accept)
        features = self.features(images)
        probabilities = self.runtime.predict(features, head.kernel, head.bias)[1]
        if thresholds is None:
            return probabilities
        return add_none(probabilities, self._similarity(features, head), thresholds)

    def fit_acceptance(self, negatives: Images) -> float:
        """Choose how readily an image is none of the classes, by images that are.

        The head keeps the result as `head.accept`, and `anil predict` uses it. It is the share that
        tells these images best from images of the learned classes; see
        `anil_tf.acceptance.choose_share`.

        Args:
            negatives: Images of none of the classes; twenty or more say something.

        Returns:
            The share of the images of known classes to accept, for `predict(accept=...)`.

        Raises:
            ValueError: As for `predict` with `accept`.
        """
        head = self._learned()
        table = self.runtime.manifest.acceptance_table(head.counts)
        features = self.features(negatives)
        named = self.runtime.predict(features, head.kernel, head.bias)[1].argmax(axis=1)
        resembled = self._similarity(features, head)[np.arange(len(named)), named]
        share = choose_share(table, head.counts, named, resembled)
        self.head = head._replace(accept=share)
        return share

    def similarity(self, images: Images, head: Head | None = None) -> np.ndarray:
        """Similarities float32 `[n, N]` of n images to the classes, from -1 to 1.

        A similarity is the cosine of an image's features to the mean of a class's features, each of
        unit length.

        Args:
            images: Images to compare; a single one gives `[1, N]`.
            head: A head of this bundle, such as another user's; the predictor's own by default.

        Raises:
            ValueError: As for `predict`.
        """
        if head is None:
            head = self._learned()
        head.check_backbone(self.runtime.manifest)
        return self._similarity(self.features(images), head)

    def _similarity(self, features: np.ndarray, head: Head) -> np.ndarray:
        rows, labels = head.support_features, head.support_labels
        return self.runtime.similarity(features, rows, labels, len(head.names))

    def _thresholds(self, head: Head, accept: float | None) -> np.ndarray | None:
        if accept is None:
            return None
        return self.runtime.manifest.find_thresholds(head.counts, accept)

    def save(self, path: str | Path) -> None:
        """Write the head, for `Predictor(bundle, head=path)` and `anil predict --head`.

        Raises:
            ValueError: Fewer than two classes were learned.
        """
        self._learned().write(Path(path))

    def _learned(self) -> Head:
        if self.head is None:
            raise ValueError(
                f"There must be at least 2 classes to tell apart. Received: {list(self.names)}. "
                "Learn more classes"
            )
        return self.head
