"""Images that `anil predict` is asked about, and how many of them are named rightly."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from anil_tf.acceptance import NONE
from anil_tf.datasets.folder import Why, list_classes, list_images
from anil_tf.datasets.pictures import why_left_out


class Asked(NamedTuple):
    """An image to name.

    Attributes:
        path: File of the image.
        folder: Name of its class folder; None for a file that is in none.
    """

    path: Path
    folder: str | None = None


def list_asked(paths: Iterable[Path], why: Why = why_left_out) -> list[Asked]:
    """The images of files and folders.

    Args:
        paths: Files, folders of images, and folders of class folders.
        why: Function that says why a file is left out; see `folder.list_classes`.

    Raises:
        ValueError: A folder has no images.

    Warns:
        UserWarning: Files of a folder were left out.
    """
    asked: list[Asked] = []
    for path in paths:
        if not path.is_dir():
            asked.append(Asked(path))
        elif images := list_images(path, why):
            asked += map(Asked, images)
        else:
            classes = list_classes(path, why)
            asked += [Asked(file, name) for name, files in classes.items() for file in files]
    return asked


def describe_accuracy(
    asked: Sequence[Asked], named: Sequence[str], classes: Sequence[str]
) -> list[str]:
    """The accuracy on images whose folder has the name of a class, in lines; none without folders.

    Args:
        asked: The images.
        named: Class that each image was given, or `NONE`.
        classes: Classes of the head.
    """
    folders = list(dict.fromkeys(image.folder for image in asked if image.folder is not None))
    if not folders:
        return []
    rows = {
        folder: [name for image, name in zip(asked, named, strict=True) if image.folder == folder]
        for folder in folders
    }
    known = {folder: names for folder, names in rows.items() if folder in classes}
    others = [name for folder, names in rows.items() if folder not in classes for name in names]
    lines = []
    if known:
        right = {folder: names.count(folder) for folder, names in known.items()}
        total = sum(map(len, known.values()))
        lines.append(f"Right: {sum(right.values())} of {total} ({sum(right.values()) / total:.1%})")
        lines += [
            f"  {folder}: {right[folder]} of {len(names)}{_mistakes(folder, names)}"
            for folder, names in known.items()
        ]
    if others:
        rejected = f", {others.count(NONE)} of them {NONE}" if NONE in named else ""
        lines.append(
            f"Not counted: {len(others)} images in folders that are no class of the head{rejected}"
        )
    return lines


def _mistakes(folder: str, names: Sequence[str]) -> str:
    """The name most often given wrongly."""
    wrong = [name for name in names if name != folder]
    if not wrong:
        return ""
    most = max(sorted(set(wrong)), key=wrong.count)
    return f", {wrong.count(most)} named {most}"
