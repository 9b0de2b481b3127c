"""Classes from any TFDS data set that has an image and a label."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from anil_tf.datasets.images import ClassImages
from anil_tf.datasets.pictures import Shape, to_array
from anil_tf.support.hints import did_you_mean
from anil_tf.support.progress import track


def read_tfds(
    name: str, subsets: Sequence[str], image_shape: Shape, data_dir: Path | None = None
) -> ClassImages:
    """Reads the images of some TFDS splits, grouped by label.

    TFDS first prepares a data set that is not prepared yet; except for `glyphs` this needs a
    network.

    Args:
        name: Name of the data set in TFDS: `"omniglot"`, `"cifar100"`, `"glyphs"`, ...
        subsets: TFDS splits to pool, such as `("train", "test")`.
        image_shape: Height, width and channels of the images returned.
        data_dir: Folder where TFDS keeps its data; TFDS's own default otherwise.

    Raises:
        ValueError: The data set is unknown, or has no `image` and `label`, or lacks a split, or
            cannot be downloaded.
    """
    if name == "glyphs":
        import anil_tf.datasets.glyphs  # noqa: F401  registers the builder with TFDS
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.registered.DatasetNotFoundError as error:
        hint = did_you_mean(name, [*tfds.list_builders(with_community_datasets=False), "glyphs"])
        raise ValueError(
            f"TFDS knows no data set {name!r}.{hint} tfds.list_builders() lists them"
        ) from error
    missing = {"image", "label"} - set(builder.info.features)
    if missing:
        raise ValueError(
            f"{name} has no {sorted(missing)} feature. Received: {builder.info.features}"
        )
    if not sys.stderr.isatty():  # TFDS would write a line for every hundredth
        tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for the results of a command
            builder.download_and_prepare()
    except (OSError, tfds.download.DownloadError) as error:
        raise ValueError(
            f"{name} is not in {data_dir or 'the directory of TFDS'}, and cannot be downloaded: "
            f"{error}. Choose the data_dir that holds it"
        ) from error
    unknown = set(subsets) - set(builder.info.splits)
    if unknown:
        raise ValueError(
            f"{name} has no split {sorted(unknown)}. Received splits: {sorted(builder.info.splits)}"
        )

    total = sum(builder.info.splits[subset].num_examples for subset in subsets)
    images, labels = np.empty((total, *image_shape), np.uint8), np.empty(total, np.int64)
    examples = read_examples(builder.as_dataset("+".join(subsets)))
    for row, (image, label) in enumerate(track(examples, f"Reading {name}", total)):
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        images[row], labels[row] = to_array(picture, image_shape), label
    return ClassImages.from_arrays(images, labels, builder.info.features["label"].names)


def read_examples(dataset: tf.data.Dataset, batch: int = 64) -> Iterator[tuple[np.ndarray, int]]:
    """Images `[H, W, C]`, each of its own size, and labels.

    They are read in batches, as flat rows: TensorFlow takes longer to hand over a tensor than to
    read a small image.
    """

    def flatten(example: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        image = example["image"]
        return tf.reshape(image, [-1]), tf.shape(image), example["label"]

    for parts in dataset.map(flatten).ragged_batch(batch):
        for pixels, shape, label in zip(*(part.numpy() for part in parts), strict=True):
            yield pixels.reshape(shape), label
