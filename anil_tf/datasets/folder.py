"""Classes from a folder tree: one folder per class."""

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from anil_tf.datasets.images import ClassImages
from anil_tf.datasets.pictures import (
    Shape,
    describe_left_out,
    find_classes,
    is_leftover,
    read_image,
    why_left_out,
)
from anil_tf.datasets.splits import SPLITS
from anil_tf.support.progress import track

# Says why a file is left out; empty for one to read.
Why = Callable[[Path], str]


def has_splits(root: Path) -> bool:
    """Whether the tree has `train`, `val` and `test` folders above its class folders."""
    return all((root / split).is_dir() for split in SPLITS)


def list_classes(root: Path, why: Why = why_left_out) -> dict[str, list[Path]]:
    """The image files of each class folder under `root`, by class name.

    Args:
        root: Folder with one folder per class.
        why: Function that says why a file is left out, such as `windows.why_no_window` for files
            of windows; empty for one to read.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds no class folder, or a class folder without an image.

    Warns:
        UserWarning: Files were left out; the reasons are named, with an example of each.
    """
    (classes,) = _list([root], why)
    return classes


def list_pictures(root: Path, why: Why = why_left_out) -> list[Path]:
    """The image files in a folder and in the folders below it, in the order of their paths.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds no image.

    Warns:
        UserWarning: Files were left out; the reasons are named, with an example of each.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder of images")
    found: list[Path] = []
    left_out: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*")):
        if path.is_dir() or any(map(is_leftover, (path, *path.relative_to(root).parents))):
            continue
        if reason := why(path):
            left_out.setdefault(reason, []).append(path)
        else:
            found.append(path)
    if text := describe_left_out(left_out, root):
        warnings.warn(text, stacklevel=2)
    if not found:
        raise ValueError(f"{root} holds no image")
    return found


def list_splits(root: Path, why: Why = why_left_out) -> dict[str, dict[str, list[Path]]]:
    """The classes of the folders `train`, `val` and `test` under `root`; see `list_classes`."""
    return dict(zip(SPLITS, _list([root / split for split in SPLITS], why), strict=True))


def list_images(folder: Path, why: Why = why_left_out) -> list[Path]:
    """The image files in a folder that has no folders in it; none of any other.

    Raises:
        ValueError: The folder has neither images nor folders.

    Warns:
        UserWarning: Files were left out; the reasons are named, with an example of each.
    """
    entries = [path for path in sorted(folder.iterdir()) if not is_leftover(path)]
    if any(path.is_dir() for path in entries):
        return []
    left_out: dict[str, list[Path]] = {}
    images = []
    for path in entries:
        if reason := why(path):
            left_out.setdefault(reason, []).append(path)
        else:
            images.append(path)
    note = describe_left_out(left_out, folder)
    if not images:
        raise ValueError(f"{folder} has no images. {note}".rstrip())
    if note:
        warnings.warn(note, stacklevel=2)
    return images


def _list(roots: list[Path], why: Why) -> list[dict[str, list[Path]]]:
    found = [(root, *find_classes(root, why)) for root in roots]
    notes = [describe_left_out(left_out, root) for root, _, left_out in found if left_out]
    if notes:
        warnings.warn(". ".join(notes), stacklevel=3)
    return [classes for _, classes, _ in found]


def read_classes(classes: dict[str, list[Path]], image_shape: Shape) -> ClassImages:
    """Decodes the images of some classes, in threads.

    Args:
        classes: Files of each class, from `list_classes`.
        image_shape: Height, width and channels of the images returned.
    """
    images = np.empty((sum(map(len, classes.values())), *image_shape), np.uint8)
    return fill(images, classes, lambda path: read_image(path, image_shape), "Reading images")


def fill(
    rows: np.ndarray,
    classes: dict[str, list[Path]],
    read: Callable[[Path], np.ndarray],
    what: str,
) -> ClassImages:
    """Reads the files of some classes into `rows`, in threads.

    Args:
        rows: Array with one row per file, which becomes the images.
        classes: Files of each class, from `list_classes`.
        read: Function from a file to its row.
        what: What the line of progress says.
    """
    paths = [path for files in classes.values() for path in files]
    with ThreadPoolExecutor() as pool:
        for index, row in enumerate(track(pool.map(read, paths), what, len(paths))):
            rows[index] = row
    counts = np.array([len(files) for files in classes.values()], np.int64)
    return ClassImages(rows, counts, tuple(classes))
