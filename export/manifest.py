"""The manifest of a bundle: settings, accuracy, and the digest of every file."""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pydantic

from anil_tf.acceptance import NONE, UNDIVIDED, Temperature, find_thresholds
from anil_tf.export import layout
from anil_tf.export.signatures import LIMITS, Signature, declare, declare_encoded
from anil_tf.support.json_files import write_json
from anil_tf.support.untrusted import read_bytes


class File(pydantic.BaseModel):
    """Size and digest of a file."""

    sha256: str
    bytes: int


class Check(pydantic.BaseModel):
    """One comparison with the float64 reference.

    `difference` is relative to the largest value of the reference, and null if there was nothing
    to compare, in which case `error` says why.
    """

    check: str
    difference: float | None
    bound: float
    error: str = ""

    @pydantic.computed_field
    @property
    def ok(self) -> bool:
        """Whether the difference is within the bound."""
        return self.difference is not None and self.difference <= self.bound

    @property
    def share_of_bound(self) -> float:
        """The difference as a multiple of the bound; infinite if there is none."""
        return math.inf if self.difference is None else self.difference / self.bound


class Parity(pydantic.BaseModel):
    """Agreement of a runtime with the float64 reference, on the episodes in the bundle.

    `accuracy` is that of the query images after adaptation, in 0..1, or null if the runtime cannot
    measure it. `auroc` is the probability that a query image of a learned class is more similar to
    its class than one of the other episode's classes; null if there is one episode. `bytes` is the
    size of its files. `milliseconds` are medians with one thread: `features` of one image, `adapt`
    with 10 and 100 steps and `predict` of an episode. `arena_bytes` is the working memory of each
    function where the runtime has a fixed one, as microcontrollers do.
    """

    runtime: str
    checks: list[Check]
    accuracy: float | None = None
    auroc: float | None = None
    bytes: int
    milliseconds: dict[str, float] = {}
    arena_bytes: dict[str, int] = {}

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(check.ok for check in self.checks)


class Acceptance(pydantic.BaseModel):
    """What validation classes say of similarities and probabilities; see `anil_tf.acceptance`.

    It is measured on their episodes. `thresholds[s][r]` is the similarity that the share `rates[r]`
    of their images reaches, where a class has `shots[s]` support images. `temperature` makes
    probabilities of logits.
    """

    model_config = pydantic.ConfigDict(frozen=True)

    rates: list[Annotated[float, pydantic.Field(ge=0, le=1)]] = pydantic.Field(min_length=1)
    shots: list[pydantic.PositiveInt] = pydantic.Field(min_length=1)
    thresholds: list[list[pydantic.FiniteFloat]]
    temperature: Temperature = UNDIVIDED

    @pydantic.model_validator(mode="after")
    def _check(self) -> "Acceptance":
        for values in (self.rates, self.shots):
            if sorted(set(values)) != values:
                raise ValueError(f"rates and shots must increase. Received: {values}")
        if [len(row) for row in self.thresholds] != [len(self.rates)] * len(self.shots):
            raise ValueError("thresholds must have a row for each of shots, a column for each rate")
        if not (self.temperature.scale > 0 and np.isfinite(self.temperature).all()):
            raise ValueError(
                "temperature must be a positive scale and a power, both finite. "
                f"Received: {list(self.temperature)}"
            )
        return self


class Settings(pydantic.BaseModel):
    """The settings of a bundle, known before its files are written.

    Names are those of recipes, options and signatures. `shots` and `seed` are null for a model that
    was not trained by a recipe. `acceptance` is null where it was not measured.
    """

    model_config = pydantic.ConfigDict(extra="ignore", frozen=True)

    schema_version: Literal[1, 2, 3] = 3
    name: str
    image_shape: tuple[Annotated[int, pydantic.Field(ge=1, le=2**14)], ...]
    image_dtype: Literal["uint8", "float32"]
    feature_size: int
    ways: int
    shots: int | None
    head_init: Literal["per_class", "shared"]
    inner_lr: float
    inner_steps: int
    norm: Literal["batch"]
    loss: Literal["cross_entropy"]
    seed: int | None
    data: dict[str, Any]
    evaluation: dict[str, Any]
    accuracy: dict[str, dict[str, Any]]
    acceptance: Acceptance | None = None
    backbone_sha256: str
    versions: dict[str, str]

    @property
    def temperature(self) -> Temperature:
        """Divisor of the logits in the softmax of `predict`; 1 where it was not measured."""
        return UNDIVIDED if self.acceptance is None else self.acceptance.temperature

    @property
    def balanced(self) -> bool:
        """Whether every class counts equally in `adapt`; in bundles of schema 1 every row does."""
        return self.schema_version >= 2

    @property
    def crops(self) -> bool:
        """Whether pictures are cropped to the model's aspect ratio, as they are since schema 3."""
        return self.schema_version >= 3

    @property
    def metadata(self) -> dict[str, str]:
        """Metadata to write into single files."""
        keys = (
            "ways", "shots", "head_init", "inner_lr", "inner_steps", "feature_size",
            "backbone_sha256",
        )  # fmt: skip
        values = {key: getattr(self, key) for key in keys}
        return {key: str(value) for key, value in values.items() if value is not None} | {
            "anil-tf": self.versions["anil-tf"]
        }

    @property
    def signatures(self) -> dict[str, Signature]:
        """The bundle's functions, with names, dtypes and axes of inputs and outputs."""
        return declare(self.image_shape, self.image_dtype, self.feature_size)

    @property
    def encoded_signatures(self) -> dict[str, Signature]:
        """The functions of a SavedModel that take pictures as files; see `declare_encoded`."""
        return declare_encoded(self.image_shape, self.image_dtype, self.feature_size)

    @property
    def most_ways(self) -> int:
        """Largest number of classes that a head can have."""
        return self.ways if self.head_init == "per_class" else LIMITS["ways"][1]

    def find_thresholds(self, counts: Sequence[int] | np.ndarray, accept: float) -> np.ndarray:
        """Least similarity of an accepted image to each class; see `anil_tf.acceptance`.

        Args:
            counts: Number of images that each class was learned from, integers `[N]`.
            accept: Share of the images of known classes to accept.

        Raises:
            ValueError: As for `acceptance_table`, or the table does not reach to this share.
        """
        return find_thresholds(self.acceptance_table(counts), counts, accept)

    def acceptance_table(self, counts: Sequence[int] | np.ndarray) -> dict[str, Any]:
        """The table of acceptance, for a head with classes of these numbers of images.

        Raises:
            ValueError: The bundle has no table, or the head keeps no features of its images.
        """
        if self.acceptance is None:
            raise ValueError(
                f"The bundle {self.name!r} has no table of acceptance: it cannot say that an image "
                f"is {NONE}. `anil train --resume` measures it; then export the run again"
            )
        if not np.all(counts):
            raise ValueError(
                "This head keeps no features of its images: it cannot say that an image is "
                f"{NONE}. Learn its classes again"
            )
        return self.acceptance.model_dump()

    def check_ways(self, ways: int) -> None:
        """Check the number of classes of a head.

        Raises:
            ValueError: `ways` is below 2 or above `most_ways`.
        """
        if ways < 2:
            raise ValueError(f"ways must be at least 2. Received: ways={ways}")
        if ways <= self.most_ways:
            return
        if self.head_init == "per_class":
            raise ValueError(
                f"This bundle's head has a column for each of {self.ways} classes. "
                f"Received: ways={ways}. Train with head_init = 'shared' for any number of classes."
            )
        raise ValueError(f"ways must be at most {self.most_ways}. Received: ways={ways}")


class Manifest(Settings):
    """The content of `manifest.json`: settings, files, and the agreement of each runtime."""

    files: dict[str, File]
    parity: list[Parity] = []

    def write(self, bundle: Path) -> None:
        """Write `manifest.json` into a bundle's folder."""
        write_json(bundle / layout.MANIFEST, self.model_dump(mode="json"))

    @property
    def formats(self) -> list[str]:
        """The formats in the bundle, one per folder: `onnx`, `saved_model`."""
        folders = {name.split("/")[0] for name in self.files if "/" in name}
        return sorted(folders - {layout.SERVING})

    def size(self, path: str) -> int:
        """Bytes of a file or a folder of the bundle; 0 if there is none."""
        return sum(
            file.bytes
            for name, file in self.files.items()
            if name == path or name.startswith(f"{path}/")
        )


class Draft(NamedTuple):
    """A bundle whose manifest is not written yet: export verifies the files first."""

    folder: Path
    manifest: Manifest


def open_manifest(bundle: str | Path | Draft) -> Draft:
    """Folder and manifest of a bundle: those of a draft as they are, others by `read_manifest`."""
    if isinstance(bundle, Draft):
        return bundle
    return Draft(Path(bundle), read_manifest(Path(bundle)))


def list_files(bundle: Path) -> dict[str, File]:
    """Every file in a folder except the manifest, by its relative path, with `/`."""
    paths = sorted(path for path in bundle.rglob("*") if path.is_file())
    names = {path.relative_to(bundle).as_posix(): path for path in paths}
    return {name: _describe(path) for name, path in names.items() if name != layout.MANIFEST}


def read_manifest(bundle: Path) -> Manifest:
    """Read the manifest and check every file of a bundle against it.

    Args:
        bundle: Folder of the bundle.

    Returns:
        The manifest.

    Raises:
        FileNotFoundError: The folder is not a bundle.
        ValueError: It is a run, the manifest is invalid, or a file is missing, changed or outside
            the folder.
    """
    if (bundle / "model.keras").is_file():
        raise ValueError(
            f"{bundle} is a run, not a bundle. Make one: anil export {bundle} --output BUNDLE"
        )
    path = bundle / layout.MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{bundle} is not a bundle: it has no {layout.MANIFEST}")
    manifest = parse_manifest(path)

    root = bundle.resolve()
    for name, expected in manifest.files.items():
        try:
            file = (root / name).resolve()
        except RuntimeError as error:  # a loop of links
            raise ValueError(f"{path} names a file that cannot be: {name}") from error
        if not file.is_relative_to(root):
            raise ValueError(f"{path} names a file outside the bundle: {name}")
        if not file.is_file():
            raise ValueError(f"{bundle} is incomplete: {name} is missing")
        if _describe(file) != expected:
            raise ValueError(f"{bundle} was changed after export: {name} differs from its sha256")
    return manifest


def parse_manifest(path: Path) -> Manifest:
    """Read a manifest alone, without the files that it describes.

    Args:
        path: The file `manifest.json`, or the folder that holds it.

    Returns:
        The manifest.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The manifest is invalid.
    """
    path = path / layout.MANIFEST if path.is_dir() else path
    try:
        return Manifest.model_validate_json(read_bytes(path))
    except pydantic.ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ValueError(f"{path} is not a valid manifest: {'; '.join(problems)}") from error


def _describe(path: Path) -> File:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return File(sha256=digest, bytes=path.stat().st_size)
