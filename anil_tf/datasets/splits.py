"""Disjoint classes for training, validation and test."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SPLITS = ("train", "val", "test")
FEW_CLASSES = 30  # a network that is trained on fewer learns these, not to learn others
WITHOUT_TRAINING = (
    "With so little data, do not train: `anil export photos --output BUNDLE` makes a model of "
    "photographs that is ready to learn, and `anil adapt BUNDLE --support DIR --output HEAD` "
    "learns your classes"
)


def random_split(
    names: Sequence[str], sizes: Sequence[float] = (64, 16, 20), seed: int = 0
) -> dict[str, list[str]]:
    """Shuffles the classes and splits them in three.

    Of six classes or more, each split gets two at least, so that there is something to tell apart.

    Args:
        names: Names of all classes, in any order.
        sizes: Shares of train, val and test, scaled to the number of classes: `(1100, 100, 423)`
            of 1,623 characters gives exactly these numbers.
        seed: Seed for the shuffle.

    Returns:
        Class names of each split.

    Raises:
        ValueError: Not three positive shares, or a split would have no class.
    """
    if len(sizes) != 3 or min(sizes) <= 0:
        raise ValueError(
            f"split sizes are three positive shares, train, val and test. Received: {sizes}"
        )
    ordered = sorted(names)
    shuffled = [ordered[i] for i in np.random.default_rng(seed).permutation(len(ordered))]
    cuts = np.rint(np.cumsum(sizes) / np.sum(sizes) * len(shuffled)).astype(int)
    if len(shuffled) >= 6:
        cuts[0] = np.clip(cuts[0], 2, len(shuffled) - 4)
        cuts[1] = np.clip(cuts[1], cuts[0] + 2, len(shuffled) - 2)
    parts = np.split(np.array(shuffled, object), cuts[:2])
    if not all(map(len, parts)):
        raise ValueError(
            f"{len(names)} classes are too few for splits of shares {tuple(sizes)}: "
            f"Received: {[len(part) for part in parts]} classes in train, val and test. "
            f"{WITHOUT_TRAINING}"
        )
    return {split: list(part) for split, part in zip(SPLITS, parts, strict=True)}


def csv_split(folder: Path, names: Sequence[str]) -> dict[str, list[str]]:
    """Reads a split from `train.csv`, `val.csv` and `test.csv`.

    Each file has a `label` column and one row per class or per image. Ravi & Larochelle (2017)
    publish such files for mini-ImageNet; only the labels are used.

    Args:
        folder: Folder of the three files.
        names: Names of all classes that have images.

    Returns:
        Class names of each split.

    Raises:
        ValueError: A file has no `label` column, names an unknown class, or shares one with another
            split.
        FileNotFoundError: A file is missing.
    """
    split: dict[str, list[str]] = {}
    owner: dict[str, str] = {}
    for part in SPLITS:
        path = folder / f"{part}.csv"
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            if "label" not in (rows.fieldnames or ()):
                raise ValueError(
                    f"{path} needs a 'label' column. Received: columns {rows.fieldnames}"
                )
            classes = sorted({row["label"] for row in rows})
        for name in classes:
            if name not in names:
                raise ValueError(f"{path} names class {name!r}, of which there is no image")
            if name in owner:
                raise ValueError(f"class {name!r} is in both {owner[name]} and {part}")
            owner[name] = part
        split[part] = classes
    return split


@dataclass(frozen=True)
class SplitRule:
    """Rule that splits classes: by CSV files if given, else at random.

    Attributes:
        class_lists: Folder of `train.csv`, `val.csv` and `test.csv`.
        sizes: Shares of train, val and test in a random split.
        seed: Seed of a random split.
    """

    class_lists: Path | None = None
    sizes: tuple[float, float, float] = (64, 16, 20)
    seed: int = 0

    def split(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Class names of each split; see `csv_split` and `random_split`."""
        if self.class_lists is not None:
            return csv_split(self.class_lists, names)
        return random_split(names, self.sizes, self.seed)
