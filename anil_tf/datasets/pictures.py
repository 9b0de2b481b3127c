"""Reads pictures: one rule for training and devices.

The `adapt.py` of a bundle contains this file, so it imports only NumPy and Pillow.
"""

import functools
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

Shape = tuple[int, int, int]

HEIC_SUFFIXES = frozenset({".heic", ".heics", ".heif", ".heifs", ".hif"})
HEIC_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"})
NO_HEIC = "HEIC, which needs pip install pillow-heif"
ORIENTATION = 0x0112  # the EXIF tag
LEFTOVERS = frozenset({"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini"})  # of other systems


def to_array(image: Image.Image, image_shape: Shape, crop: bool = True) -> np.ndarray:
    """Convert a picture to the model's shape, in training and on the device.

    The first frame is taken. It is turned upright by its EXIF orientation, composited on white
    where it is transparent, made grey or RGB, cropped to the largest centred box of the model's
    aspect ratio, and resized by a Lanczos filter to the model's height and width. 16-bit pixels
    keep their upper byte; float pixels lie in 0..1. Color profiles are ignored.

    Args:
        image: Any Pillow image.
        image_shape: Height, width and channels (1: grey, 3: RGB).
        crop: Whether to crop. Bundles of schema 1 and 2 were made without: their pictures were
            stretched.

    Returns:
        uint8 `[H, W, C]`.

    Raises:
        ValueError: Channels other than 1 or 3, or pixels without a known range.
    """
    height, width, channels = image_shape
    if channels not in (1, 3):
        raise ValueError(f"Images have 1 or 3 channels. Received: image_shape={image_shape}")
    image = _on_white(_to_bytes(_turn_upright(image)))
    image = image.convert("L" if channels == 1 else "RGB")
    if crop:
        image = image.crop(_centre_box(image.size, (width, height)))
    # Rows first: Pillow 13 would choose the order itself, and another order rounds otherwise.
    for size in ((width, image.height), (width, height)):
        image = image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(image, np.uint8).reshape(image_shape)


def _centre_box(size: tuple[int, int], model: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the largest centred box of the model's aspect ratio."""
    width = max(1, min(size[0], size[1] * model[0] // model[1]))
    height = max(1, min(size[1], size[0] * model[1] // model[0]))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return left, top, left + width, top + height


def _turn_upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF data raises almost any; the pixels may be sound
        return image
    return image if orientation == 1 else ImageOps.exif_transpose(image)


def _to_bytes(image: Image.Image) -> Image.Image:
    """An image of one channel with more than 8 bits, as one of 8 bits; others as they are."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        wide = np.asarray(image)
        grey = Image.fromarray((wide >> 8).astype(np.uint8))
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            grey.putalpha(Image.fromarray(np.where(wide == transparent, 0, 255).astype(np.uint8)))
        return grey
    if image.mode == "I":
        raise ValueError("32-bit integer pixels have no known range. Save it with 8 or 16 bits")
    if image.mode == "F":
        values = np.asarray(image)
        if not (values.min() >= 0 and values.max() <= 1):  # NaN is neither
            raise ValueError(
                "float pixels must lie in 0..1. "
                f"Received: {values.min():.6g} to {values.max():.6g}. Scale them first"
            )
        return Image.fromarray(np.rint(255 * values).astype(np.uint8))
    return image


def _on_white(image: Image.Image) -> Image.Image:
    """The image in grey or RGB; what is transparent becomes white."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        page = Image.new("RGB", image.size, "white")
        page.paste(image.convert("RGB"), mask=image.getchannel("A"))
        return page
    return image if image.mode in ("1", "L") else image.convert("RGB")


def read_image(path: Path, image_shape: Shape, crop: bool = True) -> np.ndarray:
    """Read a picture's file as uint8 `[H, W, C]`; see `to_array`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file does not decode; it is named.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder. Expected the file of an image")
    if not path.is_file():
        raise FileNotFoundError(f"There is no image {path}")
    try:
        with _open(path) as image:
            return to_array(image, image_shape, crop)
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is not an image that decodes: its format is unknown") from error
    except MemoryError:
        raise
    except Exception as error:  # damaged or hostile content raises almost any
        raise ValueError(f"{path} is not an image that decodes: {error}") from error


def _open(path: Path) -> Image.Image:
    try:
        return Image.open(path, formats=picture_formats())
    except UnidentifiedImageError:
        if not _is_heic(path):
            raise
        if not register_heic():
            raise ValueError(NO_HEIC) from None
        return Image.open(path, formats=picture_formats())


def picture_formats() -> list[str]:
    """The names of the picture formats that Pillow reads here; not of documents and films."""
    Image.init()
    return [name for name in Image.OPEN if Image.MIME.get(name, "").startswith("image/")]


@functools.cache
def register_heic() -> bool:
    """Whether pillow-heif is installed; from then on Pillow reads HEIC."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


@functools.cache
def picture_suffixes() -> frozenset[str]:
    """The suffixes, in lower case, of files that count as pictures without being read."""
    formats = set(picture_formats())
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in formats}
    return HEIC_SUFFIXES | known


def _is_heic(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(12)
    return start[4:8] == b"ftyp" and start[8:] in HEIC_BRANDS


def is_leftover(path: Path) -> bool:
    """Whether a file was left by an operating system: `._a.jpg`, `__MACOSX`, `Thumbs.db`."""
    return path.name.startswith(".") or path.name.lower() in LEFTOVERS


def why_left_out(path: Path) -> str:
    """Why an entry of a class folder is no picture to read; empty if it is one."""
    if path.is_dir():
        return "in a folder below a class"
    if not path.is_file():
        return "missing"
    suffix = path.suffix.lower()
    if suffix in picture_suffixes() - HEIC_SUFFIXES:
        return ""
    try:
        _open(path).close()
    except PermissionError:
        return ""  # reading it says so
    except Exception as error:  # damaged or hostile content raises almost any
        if str(error) == NO_HEIC:
            return NO_HEIC
        return "" if suffix in HEIC_SUFFIXES else "no picture"
    return ""


def find_classes(
    root: Path, why: Callable[[Path], str] = why_left_out
) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """The pictures of each class folder under `root`, and the files that are left out.

    Files left by operating systems are in neither.

    Args:
        root: Folder with one folder per class.
        why: Function that says why an entry is left out; empty for one to read.

    Returns:
        Files by class name, and files by the reason why they are left out.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds no class folder, or a class folder without an image.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder. Expected one folder per class in it")
    classes: dict[str, list[Path]] = {}
    left_out: dict[str, list[Path]] = {}
    for folder in sorted(root.iterdir()):
        if is_leftover(folder):
            continue
        if not folder.is_dir():
            if folder.suffix.lower() in picture_suffixes():
                left_out.setdefault("beside the class folders", []).append(folder)
            continue
        files = classes.setdefault(folder.name, [])
        for path in sorted(folder.iterdir()):
            if is_leftover(path):
                continue
            if reason := why(path):
                found = _files_below(path) if path.is_dir() else [path]
                left_out.setdefault(reason, []).extend(found)
            else:
                files.append(path)
    left_out = {reason: paths for reason, paths in left_out.items() if paths}
    if not classes:
        raise ValueError(
            f"{root} has no class folders. Expected a folder for each class with images in it"
        )
    if empty := next((name for name, files in classes.items() if not files), None):
        inside = {
            reason: [path for path in paths if (root / empty) in path.parents]
            for reason, paths in left_out.items()
        }
        reason = describe_left_out(
            {reason: paths for reason, paths in inside.items() if paths}, root
        )
        raise ValueError(f"class {empty!r} has no images in {root / empty}. {reason}".rstrip())
    return classes, left_out


def _files_below(folder: Path) -> list[Path]:
    """All files in a folder and below it, without files left by operating systems."""
    found = [Path(place, name) for place, _, names in os.walk(folder) for name in names]
    return sorted(path for path in found if not is_leftover(path))


def describe_left_out(left_out: dict[str, list[Path]], root: Path) -> str:
    """The number of files left out, with reasons, in one line; empty if none."""
    if not left_out:
        return ""
    total = sum(map(len, left_out.values()))
    reasons = [
        f"{reason}: {len(paths)} ({paths[0].relative_to(root)}{', ...' * (len(paths) > 1)})"
        for reason, paths in left_out.items()
    ]
    return f"Left out {total} file{'s' * (total > 1)} of {root}: {'; '.join(reasons)}"


def order_names(names: Iterable[str]) -> list[str]:
    """Class names in the order of a head's columns: numerical if all are numbers, else as text."""
    names = list(names)
    if all(re.fullmatch("-?[0-9]{1,18}", name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)
