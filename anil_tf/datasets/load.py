"""From the description of a data set, as recipes give it, to the classes of its splits."""

from collections.abc import Sequence
from pathlib import Path

from anil_tf.datasets import folder, splits
from anil_tf.datasets.images import ClassImages, Shape


def load_folder(
    root: Path,
    wanted: Sequence[str],
    image_shape: Shape,
    class_lists: Path | None = None,
    sizes: Sequence[float] = (64, 16, 20),
    seed: int = 0,
) -> dict[str, ClassImages]:
    """Classes of a folder tree.

    The split is the tree's own where it has `train`, `val` and `test` folders, else that of CSV
    files, else a random one.

    Args:
        root: One folder a class, or `train`, `val` and `test` with one folder a class in each.
        wanted: Which of `train`, `val` and `test` to read.
        image_shape: Height, width, channels that every image is brought to.
        class_lists: Folder of `train.csv`, `val.csv` and `test.csv`.
        sizes: Shares of a random split.
        seed: Of a random split.

    Returns:
        The classes of each wanted split.

    Raises:
        FileNotFoundError: `root` is not there.
        ValueError: The tree is not as described, a class is in two splits, or an image does not
            decode.
    """
    if folder.has_splits(root):
        trees = {split: folder.list_classes(root / split) for split in splits.SPLITS}
        for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
            if common := trees[first].keys() & trees[second].keys():
                raise ValueError(f"class {min(common)!r} is in both {first} and {second} of {root}")
        return {split: folder.read_classes(trees[split], image_shape) for split in wanted}

    classes = folder.list_classes(root)
    if class_lists is not None:
        split_names = splits.csv_split(class_lists, list(classes))
    else:
        split_names = splits.random_split(list(classes), sizes, seed)
    return {
        split: folder.read_classes(
            {name: classes[name] for name in split_names[split]}, image_shape
        )
        for split in wanted
    }


def load_tfds(
    name: str,
    wanted: Sequence[str],
    image_shape: Shape,
    data_dir: Path | None = None,
    subsets: Sequence[str] | None = None,
    class_lists: Path | None = None,
    sizes: Sequence[float] = (64, 16, 20),
    seed: int = 0,
) -> dict[str, ClassImages]:
    """Classes of a TFDS data set.

    Args:
        name: As in `tfds.load`.
        wanted: Which of `train`, `val` and `test` to read.
        image_shape: Height, width, channels that every image is brought to.
        data_dir: Where TFDS keeps its data; its own default otherwise.
        subsets: TFDS splits to pool before the classes are split at random, for data sets whose
            TFDS splits share classes or do not suit. Without it, TFDS's `train`, `validation` and
            `test` are taken as they are; a class in two of them is an error.
        class_lists: Folder of `train.csv`, `val.csv` and `test.csv` that split the pooled classes.
        sizes: Shares of a random split.
        seed: Of a random split.

    Returns:
        The classes of each wanted split.

    Raises:
        ValueError: The data set is unknown or lacks a split, or its splits share classes.
    """
    from anil_tf.datasets.tfds import read_tfds  # TFDS takes seconds to import

    if subsets is None:
        own = {"train": "train", "val": "validation", "test": "test"}
        data = {split: read_tfds(name, [own[split]], image_shape, data_dir) for split in wanted}
        seen: dict[str, str] = {}
        for split, classes in data.items():
            for label in classes.names:
                if label in seen:
                    raise ValueError(
                        f"class {label!r} of {name} is in both {seen[label]} and {split}. "
                        "Set data.subsets to pool TFDS's splits and split the classes instead"
                    )
                seen[label] = split
        return data

    pooled = read_tfds(name, subsets, image_shape, data_dir)
    if class_lists is not None:
        split_names = splits.csv_split(class_lists, pooled.names)
    else:
        split_names = splits.random_split(pooled.names, sizes, seed)
    index = {label: position for position, label in enumerate(pooled.names)}
    return {
        split: pooled.select([index[label] for label in split_names[split]]) for split in wanted
    }
