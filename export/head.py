"""An adapted head on disk: the classes that a bundle has learned."""

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from anil_tf.export.manifest import Manifest


class Head(NamedTuple):
    """A linear head and the names of its classes.

    Attributes:
        kernel: float32 `[D, N]`.
        bias: float32 `[N]`.
        names: N class names.
        backbone_sha256: Of the backbone whose features the head reads, as in the manifest.
    """

    kernel: np.ndarray
    bias: np.ndarray
    names: tuple[str, ...]
    backbone_sha256: str

    def write(self, path: Path) -> None:
        """Write the head as an `.npz` file."""
        with path.open("wb") as file:
            np.savez(
                file,
                kernel=self.kernel,
                bias=self.bias,
                names=np.array(self.names, np.str_),
                backbone_sha256=np.array(self.backbone_sha256),
            )


def read_head(path: Path, manifest: Manifest) -> Head:
    """Read a head for a bundle.

    Args:
        path: Written by `Head.write`.
        manifest: Of the bundle that is to use it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a head, or it belongs to another backbone.
    """
    try:
        # Opened here, since np.load leaves a damaged file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            head = Head(
                arrays["kernel"],
                arrays["bias"],
                tuple(map(str, arrays["names"])),
                str(arrays["backbone_sha256"]),
            )
    except (ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a head written by `anil adapt`: {error}") from error
    shape = (manifest.feature_size, len(head.names))
    if head.backbone_sha256 != manifest.backbone_sha256 or head.kernel.shape != shape:
        raise ValueError(
            f"{path} was made with another bundle: its head has kernel shape "
            f"{head.kernel.shape} for another backbone than that of {manifest.name!r}. "
            "Run `anil adapt` with this bundle"
        )
    return head
