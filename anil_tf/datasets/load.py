"""The classes of the train, val and test splits of a data set."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from anil_tf.datasets import folder, windows
from anil_tf.datasets.images import ClassImages
from anil_tf.datasets.pictures import Shape, why_left_out
from anil_tf.datasets.splits import SplitRule


def load_folder(
    root: Path, wanted: Sequence[str], image_shape: tuple[int, ...], rule: SplitRule
) -> dict[str, ClassImages]:
    """Classes of a folder tree: of pictures, or of windows where `image_shape` has two axes.

    Args:
        root: Folder with `train`, `val` and `test` folders, each with one folder per class; or with
            one folder per class, which `rule` splits.
        wanted: Splits to read, of `train`, `val` and `test`.
        image_shape: Height, width and channels of the images returned; moments and channels of
            windows, see `anil_tf.datasets.windows`.
        rule: Rule that splits classes that the tree does not split.

    Returns:
        The classes of each wanted split.

    Raises:
        FileNotFoundError: `root` does not exist.
        ValueError: The tree is not as described, a class is in two splits, or an image cannot be
            decoded.
    """
    why, read = _reader(image_shape)
    if folder.has_splits(root):
        files = folder.list_splits(root, why)
        _check_disjoint({split: list(classes) for split, classes in files.items()}, str(root))
    else:
        classes = folder.list_classes(root, why)
        files = {
            split: {name: classes[name] for name in names}
            for split, names in rule.split(list(classes)).items()
        }
    return {split: read(files[split]) for split in wanted}


def _reader(
    image_shape: tuple[int, ...],
) -> tuple[folder.Why, Callable[[dict[str, list[Path]]], ClassImages]]:
    """What is left out of a folder, and how the files of its classes are read."""
    if len(image_shape) == 2:
        read = functools.partial(windows.read_window_classes, shape=image_shape)
        return windows.why_no_window, read
    height, width, channels = image_shape
    shape = height, width, channels
    return why_left_out, lambda classes: folder.read_classes(classes, shape)


def load_tfds(
    name: str,
    wanted: Sequence[str],
    image_shape: Shape,
    rule: SplitRule,
    data_dir: Path | None = None,
    subsets: Sequence[str] | None = None,
) -> dict[str, ClassImages]:
    """Classes of a TFDS data set.

    Args:
        name: Name of the data set in TFDS.
        wanted: Splits to read, of `train`, `val` and `test`.
        image_shape: Height, width and channels of the images returned.
        rule: Rule that splits pooled classes.
        data_dir: Folder where TFDS keeps its data; TFDS's own default otherwise.
        subsets: TFDS splits to pool, whose classes `rule` then splits. By default TFDS's own
            `train`, `validation` and `test` are used, which must not share a class.

    Returns:
        The classes of each wanted split.

    Raises:
        ValueError: The data set is unknown or lacks a split, or its splits share classes.
    """
    from anil_tf.datasets.tfds import read_tfds  # TFDS takes seconds to import

    if subsets is None:
        own = {"train": "train", "val": "validation", "test": "test"}
        splits = {split: read_tfds(name, [own[split]], image_shape, data_dir) for split in wanted}
        _check_disjoint({split: classes.names for split, classes in splits.items()}, name)
        return splits

    pooled = read_tfds(name, subsets, image_shape, data_dir)
    index = {label: position for position, label in enumerate(pooled.names)}
    names = rule.split(pooled.names)
    return {split: pooled.select([index[label] for label in names[split]]) for split in wanted}


def _check_disjoint(splits: dict[str, Sequence[str]], source: str) -> None:
    owner: dict[str, str] = {}
    for split, names in splits.items():
        for name in names:
            if name in owner:
                raise ValueError(
                    f"class {name!r} of {source} is in both {owner[name]} and {split}. "
                    "Test classes must be new: pool the images and split the classes instead"
                )
            owner[name] = split
