"""Classes from a folder tree: one folder a class."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm.auto import tqdm

from anil_tf.datasets.images import ClassImages, Shape, to_array
from anil_tf.datasets.splits import SPLITS

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"})


def read_image(path: Path, image_shape: Shape) -> np.ndarray:
    """One image file as uint8 `[H, W, C]`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file does not decode; it is named.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no image {path}")
    try:
        with Image.open(path) as image:
            return to_array(image, image_shape)
    except (
        UnidentifiedImageError,
        Image.DecompressionBombError,
        OSError,
        SyntaxError,
    ) as error:
        raise ValueError(f"{path} is not an image that decodes: {error}") from error


def has_splits(root: Path) -> bool:
    """Whether the tree has `train`, `val` and `test` folders above its class folders."""
    return all((root / split).is_dir() for split in SPLITS)


def list_classes(root: Path) -> dict[str, list[Path]]:
    """The image files of each class folder under `root`, by class name.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds no class folder, or a class folder without an image.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder. Expected one folder a class in it")
    classes = {
        folder.name: sorted(
            path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file()
        )
        for folder in sorted(root.iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
    }
    if not classes:
        raise ValueError(f"{root} has no class folders. Expected {root}/class-name/*.png or *.jpg")
    for name, paths in classes.items():
        if not paths:
            raise ValueError(
                f"class {name!r} has no images: {root / name} holds none of {sorted(SUFFIXES)}"
            )
    return classes


def read_classes(classes: dict[str, list[Path]], image_shape: Shape) -> ClassImages:
    """Decodes the images of some classes, in threads.

    Args:
        classes: Files of each class, from `list_classes`.
        image_shape: Height, width, channels that every image is brought to.
    """
    paths = [path for files in classes.values() for path in files]
    images = np.empty((len(paths), *image_shape), np.uint8)
    with ThreadPoolExecutor() as pool:
        decoded = pool.map(lambda path: read_image(path, image_shape), paths)
        for row, image in enumerate(
            tqdm(decoded, "Reading images", len(paths), unit="", leave=False, disable=None)
        ):
            images[row] = image
    counts = np.array([len(files) for files in classes.values()], np.int64)
    return ClassImages(images, counts, tuple(classes))
