"""The source of an export: a run directory, or a model in memory with training images."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anil_tf.model import ANIL
from anil_tf.saving import load_model
from anil_tf.support.untrusted import read_arrays, read_toml

# The number of examples kept for a model in memory, enough to verify and quantize it.
CLASSES, IMAGES_PER_CLASS = 20, 10


class Source(NamedTuple):
    """A trained model, images to verify it on, and information about its training.

    Attributes:
        model: The trained model.
        image: Training images `[n, ...]`, uint8 or float32, as the backbone takes them.
        label: Their classes, integers `[n]`.
        name: Name of the bundle.
        data: What the model was trained on, for the manifest and the model card.
        shots: Support images per class in training; None if unknown.
        seed: Seed of the training; None if unknown.
        evaluation: The evaluation table of the recipe.
        accuracy: Metrics of the last evaluation, by runtime.
        acceptance: Thresholds of similarity, as `anil_tf.training.measure_acceptance` returns them;
            None where they were not measured.
    """

    model: ANIL
    image: np.ndarray
    label: np.ndarray
    name: str
    data: dict[str, Any]
    shots: int | None = None
    seed: int | None = None
    evaluation: dict[str, Any] = {}
    accuracy: dict[str, dict[str, Any]] = {}
    acceptance: dict[str, Any] | None = None


def read_run(run: Path) -> Source:
    """Read a run directory. Settings that its recipe omits stay unknown.

    Args:
        run: Folder with `model.keras`, `recipe.toml` and `examples.npz`.

    Raises:
        FileNotFoundError: One of the files is missing.
        ValueError: One of the files is damaged.
    """
    for name in ("recipe.toml", "model.keras", "examples.npz"):
        if not (run / name).is_file():
            raise FileNotFoundError(f"{run} is not a finished run: it has no {name}")
    examples = read_arrays(run / "examples.npz")
    if missing := {"image", "label"} - examples.keys():
        raise ValueError(
            f"{run / 'examples.npz'} must hold the arrays image and label. It has no "
            f"{' and no '.join(sorted(missing))}"
        )
    recipe, metrics = read_toml(run / "recipe.toml"), _read_metrics(run)
    last = metrics.get("evaluate")
    return Source(
        model=load_model(run / "model.keras"),
        image=examples["image"],
        label=examples["label"],
        name=recipe.get("name", run.resolve().name),
        data=recipe.get("data", {}),
        shots=recipe.get("training", {}).get("shots"),
        seed=recipe.get("seed"),
        evaluation=recipe.get("evaluation", {}),
        accuracy={last["runtime"]: last} if last else {},
        acceptance=metrics.get("acceptance"),
    )


def take_model(
    model: ANIL,
    examples: tuple[np.ndarray, np.ndarray],
    name: str | None = None,
    data: dict[str, Any] | None = None,
    acceptance: dict[str, Any] | None = None,
) -> Source:
    """Take a model from memory.

    Args:
        model: A model after `fit`.
        examples: Training images `[n, ...]` and their classes, integers `[n]`. At least two classes
            need four images each. Some images of some classes are kept.
        name: Name of the bundle; the model's by default.
        data: What the model was trained on; not stated by default.
        acceptance: Thresholds of similarity; see `Source`.

    Raises:
        ValueError: The images do not fit the labels or the backbone, or the model is not built.
    """
    if not model.built:
        raise ValueError("The model has no weights yet: call fit first")
    image, label = map(np.asarray, examples)
    if image.dtype == np.float64:  # as NumPy makes them; Keras computes in float32
        image = image.astype(np.float32)
    if image.dtype not in (np.uint8, np.float32):
        raise ValueError(f"The example images must be uint8 or float32. Received: {image.dtype}")
    if label.shape != image.shape[:1]:
        raise ValueError(
            "examples must be images [n, ...] and their n labels. "
            f"Received: shapes {list(image.shape)} and {list(label.shape)}"
        )
    expected = getattr(model.backbone, "input_shape", (None, *image.shape[1:]))[1:]
    sizes = zip(expected, image.shape[1:], strict=False)
    if len(expected) != image.ndim - 1 or any(size not in (None, given) for size, given in sizes):
        raise ValueError(
            f"The backbone takes images of shape {list(expected)}. "
            f"Received: examples of shape {list(image.shape[1:])}"
        )
    rows = _choose_rows(label)
    return Source(
        model, image[rows], label[rows], name or model.name, data or {}, acceptance=acceptance
    )


def _choose_rows(label: np.ndarray) -> np.ndarray:
    """Row numbers of the first images of some classes, those with enough images first."""
    rows = [np.flatnonzero(label == value)[:IMAGES_PER_CLASS] for value in np.unique(label)]
    chosen = sorted(rows, key=len, reverse=True)[:CLASSES]
    return np.concatenate(chosen or [np.zeros(0, int)])


def _read_metrics(run: Path) -> dict[str, Any]:
    """What training and evaluation measured of a run."""
    path = run / "metrics.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
