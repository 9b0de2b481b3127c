"""Readers for untrusted files: without pickle, without code, with bounded sizes.

Each reader raises `ValueError` for anything invalid, and writes nothing.
"""

import math
import re
import tomllib
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

TEXT_BYTES = 2**24  # of a recipe or a manifest
ARRAYS_BYTES = 2**31  # of all arrays of an .npz file, unpacked
_ARRAY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\.npy")
# What a damaged or hostile archive makes zipfile and NumPy raise.
DAMAGE = (
    ValueError, KeyError, EOFError, TypeError, OverflowError, NotImplementedError, RuntimeError,
    SyntaxError, MemoryError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def read_bytes(path: Path, most: int = TEXT_BYTES) -> bytes:
    """The bytes of a file.

    Raises:
        ValueError: The file is larger than `most` bytes.
    """
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path} is larger than {most / 2**20:g} MB")
    return content


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        ValueError: The file is not TOML, too large, or nested too deeply.
    """
    try:
        return tomllib.loads(read_bytes(path).decode("utf-8"))
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"{path} is not TOML: {error}") from error


def read_arrays(path: Path, most: int = ARRAYS_BYTES) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file: numbers and text, no objects.

    The size in an array's header is compared with the available bytes before memory is allocated.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not an archive of arrays, is damaged, or holds more than `most`
            bytes.
    """
    try:
        # Opened here, since a damaged archive would be left open.
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            check_members(archive, _ARRAY, most)
            return {
                name.removesuffix(".npy"): _read_array(archive, name) for name in archive.namelist()
            }
    except DAMAGE as error:
        raise ValueError(
            f"{path} is no archive of arrays: {error or type(error).__name__}"
        ) from error


def check_members(archive: zipfile.ZipFile, allowed: re.Pattern[str], most: int) -> None:
    """Checks the names and sizes in an archive before unpacking anything.

    Args:
        archive: Archive, open for reading.
        allowed: Pattern that every name must match in full.
        most: Largest total size of all members in bytes, unpacked.

    Raises:
        ValueError: A name is not allowed or occurs twice, or the members are too large.
    """
    names = archive.namelist()
    if len(set(names)) != len(names):
        raise ValueError("a member's name comes twice")
    for name in names:
        if not allowed.fullmatch(name):
            raise ValueError(f"unexpected member {name!r}")
    size = sum(member.file_size for member in archive.infolist())
    if size > most:
        raise ValueError(f"unpacked it has {size} bytes, more than {most}")


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(name) as member:
        version = np.lib.format.read_magic(member)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, in_columns, dtype = read_header(member)
        if dtype.kind not in "fciubU":
            raise ValueError(f"{name} holds {dtype}, not numbers or text")
        if any(size < 0 for size in shape):
            raise ValueError(f"{name} has shape {shape}")
        content = member.read(archive.getinfo(name).file_size)
    if len(content) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name} does not hold what its header says")
    if dtype.itemsize == 0:
        return np.zeros(shape, dtype)
    array = np.frombuffer(content, dtype).reshape(shape, order="F" if in_columns else "C")
    order = ">" if dtype.str.startswith(">") else "<"
    if dtype.kind == "U" and (np.frombuffer(content, f"{order}u4") > 0x10FFFF).any():
        raise ValueError(f"{name} holds what is no text")
    return array
