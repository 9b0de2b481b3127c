"""Converts the images and labels given to `Predictor` and `FewShotClient` to arrays."""

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anil_tf.datasets.pictures import read_image, to_array
from anil_tf.datasets.windows import is_window, read_window

AnyImage = str | os.PathLike[str] | Image.Image | np.ndarray
Images = AnyImage | Iterable[AnyImage]

FILE_OR_PICTURE = (str, os.PathLike, Image.Image)


def list_images(images: Any, shape: tuple[int, ...]) -> np.ndarray | list[Any]:
    """Images as a batch, whether there are one or many.

    Args:
        images: A file, a Pillow image, one array `shape`, arrays `[n, *shape]`, or any iterable of
            files, Pillow images and arrays. A grey array may lack its last axis.
        shape: The model's shape of one image.

    Returns:
        An array `[n, *shape]` of any dtype, or a list of files, Pillow images and arrays.

    Raises:
        ValueError: The images are none of these.
    """
    if isinstance(images, FILE_OR_PICTURE):
        return [images]
    if isinstance(images, Mapping | bytes | bytearray) or not (
        hasattr(images, "__array__") or isinstance(images, Iterable)
    ):
        raise ValueError(
            "Images are files, Pillow images or arrays, one or a list of them. "
            f"Received: {_describe(images)}"
        )
    if not hasattr(images, "__array__"):
        images = list(images)
        numbers = all(isinstance(image, int | float | list | tuple) for image in images)
        if not (images and numbers):
            return images
        try:
            images = np.asarray(images)
        except ValueError:  # lists of different lengths
            return images
    array = np.asarray(images)
    if array.ndim == 0:
        raise ValueError(f"An array of images must have axes. Received: {_describe(images)}")
    if array.dtype.kind in "OUS":  # a column of files
        return array.ravel().tolist()
    grey = _without_channel(shape)
    if grey and grey in (array.shape, array.shape[1:]):
        array = array[..., np.newaxis]
    return array[np.newaxis] if array.shape == shape else array


def read_pixels(
    images: np.ndarray | list[Any], shape: tuple[int, ...], dtype: str, crop: bool = True
) -> np.ndarray:
    """A batch from `list_images` as one array `[n, *shape]`; files are read in threads.

    Args:
        images: Result of `list_images`.
        shape: The model's shape of one image.
        dtype: The model's dtype of images.
        crop: Whether pictures are cropped to the model's aspect ratio; see `pictures.to_array`.

    Raises:
        ValueError: A file does not decode, or an array does not have the model's shape.
    """
    if isinstance(images, np.ndarray):
        return images
    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(lambda image: _read(image, shape, dtype, crop), images)))


def _read(image: Any, shape: tuple[int, ...], dtype: str, crop: bool) -> np.ndarray:
    if is_window(shape, dtype) and isinstance(image, str | os.PathLike):
        return read_window(Path(image), shape)
    if isinstance(image, FILE_OR_PICTURE):
        if dtype != "uint8" or len(shape) != 3:
            raise ValueError(
                f"This model takes {dtype} {list(shape)} arrays, not images. "
                f"Received: {_describe(image)}"
            )
        if isinstance(image, Image.Image):
            return to_array(image, (shape[0], shape[1], shape[2]), crop)
        return read_image(Path(image), (shape[0], shape[1], shape[2]), crop)
    if not hasattr(image, "__array__") and not isinstance(image, list | tuple):
        received = _describe(image)
        raise ValueError(f"An image is a file, a Pillow image or an array. Received: {received}")
    array = np.asarray(image)
    if array.shape == _without_channel(shape):
        array = array[..., np.newaxis]
    if array.shape != shape:
        raise ValueError(
            f"An array must be of the model's shape, {list(shape)}. "
            f"Received: {list(array.shape)}. A file or a Pillow image may have any size"
        )
    if array.dtype == bool and dtype == "uint8":  # stacked with bytes it would become 0 and 1
        raise ValueError("Pixels are 0 to 255. Received: a bool array. Multiply by np.uint8(255)")
    return array


def encode_pictures(images: np.ndarray) -> np.ndarray:
    """Pictures as the bytes of PNG files, which decode to the same pixels.

    Args:
        images: uint8 `[n, H, W, C]`, of 1 or 3 channels.

    Returns:
        Objects `[n]`, each `bytes`.
    """
    files = np.empty(len(images), object)
    for row, image in enumerate(images):
        file = io.BytesIO()
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        picture.save(file, "png", compress_level=0)  # half the time, for a quarter more bytes
        files[row] = file.getvalue()
    return files


def _without_channel(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape of a grey image that lacks its last axis; None of other data."""
    return shape[:-1] if len(shape) == 3 and shape[-1] == 1 else None


def _describe(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else type(value).__name__


def class_names(labels: Any) -> list[str]:
    """The names of the classes that labels state, one for each image.

    Whole numbers become their digits; anything else becomes text.

    Args:
        labels: Names or numbers `[n]`, as any iterable.

    Raises:
        ValueError: Labels are one-hot rows or a column, one text for all, or missing (None, NaN).
    """
    if isinstance(labels, str | bytes | Mapping):
        raise ValueError(
            f"labels must be a list with a name for each image. Received: {_describe(labels)}"
        )
    labels = np.asarray(labels) if hasattr(labels, "__array__") else list(labels)
    check_one_axis(labels)
    return [_name(label, row) for row, label in enumerate(labels)]


def check_one_axis(labels: Any) -> None:
    """Reject labels of a shape other than `[n]`, and say how to convert them.

    Raises:
        ValueError: They have another shape.
    """
    rows = labels if hasattr(labels, "__array__") else [_plain(label) for label in labels]
    try:
        shape = np.shape(rows)
    except ValueError:
        raise ValueError("labels must have one axis, one for each image") from None
    if len(shape) == 2 and shape[1] != 1:
        hint = ". Turn one-hot rows into numbers: labels.argmax(axis=1)"
    else:
        hint = ". Take the axis away: labels.ravel()" if len(shape) > 1 else ""
    if len(shape) != 1:
        raise ValueError(
            f"labels must have one axis, one for each image. Received: {list(shape)}{hint}"
        )


def _plain(label: Any) -> Any:
    """A label that has axes as it is; any other as a number, for it has none."""
    return label if hasattr(label, "__array__") or isinstance(label, list | tuple) else 0


def _name(label: Any, row: int) -> str:
    if hasattr(label, "item") and hasattr(label, "__array__"):
        label = label.item()
    if isinstance(label, bytes):
        label = label.decode("utf-8", "replace")
    try:
        missing = label is None or label == "" or bool(label != label)
    except TypeError:  # pandas.NA is neither
        missing = True
    if missing:
        raise ValueError(f"Every image must have a label. Received: {label!r} for image {row}")
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    return str(label)


def check_integer_labels(labels: Sequence[int] | Sequence[str] | np.ndarray) -> np.ndarray:
    """Labels `[n]` as an array of integers.

    Raises:
        ValueError: The labels are not integers, or have another number of axes.
    """
    array = np.asarray(labels)
    check_one_axis(array)
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(
            f"labels must be whole numbers from 0, one for each image. Received: {array.dtype}"
        )
    return array
