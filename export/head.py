"""An adapted head on disk: the classes that a bundle has learned.

A head stores the features of its support images, D numbers each, which is all that adaptation uses.
Classes can therefore be added and removed after the images have been deleted: the head is fitted
again, and the result is identical to learning all its classes together. Features reveal information
about the images, and anyone with the file can read them. Removing a class deletes its features.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from anil_tf.datasets.pictures import order_names
from anil_tf.export.manifest import Manifest
from anil_tf.export.runtime.base import Adaptation, BundleRuntime
from anil_tf.export.signatures import Signature, TensorSpec, bind
from anil_tf.support.files import replacing
from anil_tf.support.untrusted import read_arrays

HEAD_BYTES = 2**30  # largest size of a head file, which may be untrusted


class Head(NamedTuple):
    """A linear head, the names of its classes, and the rows that it was fitted to.

    Attributes:
        kernel: float32 `[D, N]`.
        bias: float32 `[N]`.
        names: N class names.
        support_features: float32 `[M, D]`.
        support_labels: int32 `[M]`, indices of names.
        backbone_sha256: sha256 of the backbone whose features the head reads, as in the manifest.
        accept: Share of the images of known classes to accept, 0 to 1, that was chosen for this
            head; None if none was. The others are none of these.
    """

    kernel: np.ndarray
    bias: np.ndarray
    names: tuple[str, ...]
    support_features: np.ndarray
    support_labels: np.ndarray
    backbone_sha256: str
    accept: float | None = None

    @classmethod
    def without_support(
        cls, kernel: np.ndarray, bias: np.ndarray, names: tuple[str, ...], backbone_sha256: str
    ) -> "Head":
        """A head that can predict, but to which no class can be added."""
        features, labels = np.zeros((0, len(kernel)), np.float32), np.zeros(0, np.int32)
        return cls(kernel, bias, names, features, labels, backbone_sha256)

    @property
    def support(self) -> dict[str, np.ndarray]:
        """Features `[shots, D]` of each class, by name."""
        return {
            name: self.support_features[self.support_labels == label]
            for label, name in enumerate(self.names)
        }

    @property
    def counts(self) -> np.ndarray:
        """Number of support rows of each class, integers `[N]`."""
        return np.bincount(self.support_labels, minlength=len(self.names))

    def check_backbone(self, manifest: Manifest) -> None:
        """Check that the head was made with the backbone of a bundle.

        Raises:
            ValueError: The head was made with another backbone.
        """
        if self.backbone_sha256 != manifest.backbone_sha256:
            raise ValueError(
                f"The head was made with another backbone than that of {manifest.name!r}"
            )

    def write(self, path: Path) -> None:
        """Write the head as an `.npz` file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = self._asdict() | {"names": np.array(self.names, np.str_)}
        if self.accept is None:
            del arrays["accept"]
        with replacing(path) as partial, partial.open("wb") as file:
            np.savez(file, **arrays)


def fit_head(
    runtime: BundleRuntime,
    support: Mapping[str, np.ndarray],
    learning_rate: float | None = None,
    steps: int | None = None,
) -> tuple[Head, Adaptation]:
    """Fit the initial head to the features of some classes.

    Args:
        runtime: Runtime of the bundle that computed the features.
        support: Features float32 `[shots, D]` of each class, by name.
        learning_rate: Inner learning rate; the bundle's own by default.
        steps: Number of inner steps; the bundle's own by default.

    Raises:
        ValueError: There are too few or too many classes, or adaptation diverges.

    Warns:
        UserWarning: The support loss rose.
    """
    names = tuple(order_names(support))
    kernel, bias = runtime.initial_head(len(names))
    features = np.concatenate([support[name] for name in names])
    labels = np.repeat(np.arange(len(names), dtype=np.int32), [len(support[n]) for n in names])
    rate = runtime.inner_lr if learning_rate is None else learning_rate
    steps = runtime.inner_steps if steps is None else steps
    adapted = runtime.adapt(features, labels, kernel, bias, rate, steps)
    if not np.isfinite(adapted.final_loss) or not np.isfinite(adapted.kernel).all():
        cause = (
            "Lower the learning rate"
            if np.isfinite(features).all()
            else "The features of these images are not finite: the backbone is of no use"
        )
        raise ValueError(
            f"Adaptation failed: the loss is {adapted.final_loss:.4g} after {steps} steps at "
            f"learning rate {rate:.4g}. {cause}"
        )
    if adapted.doubt:
        warnings.warn(adapted.doubt, stacklevel=2)
    head = Head(
        adapted.kernel, adapted.bias, names, features, labels, runtime.manifest.backbone_sha256
    )
    return head, adapted


def read_head(path: Path, manifest: Manifest) -> Head:
    """Read a head for a bundle.

    Args:
        path: File written by `Head.write`. A head without support rows can predict, but no class
            can be added to it.
        manifest: Manifest of the bundle that will use the head.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a head, is inconsistent, or belongs to another backbone.
    """
    rows = {
        "support_features": np.zeros((0, manifest.feature_size), np.float32),
        "support_labels": np.zeros(0, np.int32),
    }
    try:
        stored = rows | read_arrays(path, HEAD_BYTES)
        names = tuple(map(str, stored["names"]))
        backbone = str(stored["backbone_sha256"])
        kernel = stored["kernel"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a head written by `anil adapt`: {error}") from error
    if backbone != manifest.backbone_sha256 or kernel.shape[:1] != (manifest.feature_size,):
        raise ValueError(
            f"{path} was made with another bundle: its head has kernel shape "
            f"{kernel.shape} for another backbone than that of {manifest.name!r}. "
            "Run `anil adapt` with this bundle"
        )
    try:
        return _check(stored, names, backbone, manifest)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _check(
    stored: dict[str, np.ndarray], names: tuple[str, ...], backbone: str, manifest: Manifest
) -> Head:
    ways, size = len(names), manifest.feature_size
    arrays = bind(
        Signature(
            {
                "kernel": TensorSpec("float32", (size, ways)),
                "bias": TensorSpec("float32", (ways,)),
                "support_features": TensorSpec("float32", ("rows", size)),
                "support_labels": TensorSpec("int32", ("rows",)),
            },
            {},
        ),
        stored,
    )
    labels = arrays["support_labels"]
    if len(set(names)) < max(2, ways):
        raise ValueError(f"it must name two classes or more, each once. Received: {list(names)}")
    manifest.check_ways(ways)
    for name in ("kernel", "bias", "support_features"):
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"{name} has values that are not finite")
    if len(labels) and not (labels.min() >= 0 and labels.max() < ways):
        raise ValueError(
            f"support_labels must lie in 0..{ways - 1}. Received: {labels.min()}..{labels.max()}"
        )
    accept = None if "accept" not in stored else float(stored["accept"])
    if accept is not None and not 0 <= accept <= 1:
        raise ValueError(f"accept must lie in 0..1. Received: {accept}")
    return Head(**arrays, names=names, backbone_sha256=backbone, accept=accept)
