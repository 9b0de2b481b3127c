"""`export_bundle`: from a trained model to a bundle, complete or not at all."""

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from anil_tf.export.manifest import Manifest
from anil_tf.export.photos import ready_source
from anil_tf.export.writers.bundle import EXPORTERS, QUANTIZERS, TARGETS, write_bundle
from anil_tf.export.writers.bundle import OperatorWarning as OperatorWarning
from anil_tf.export.writers.bundle import QuantizationWarning as QuantizationWarning
from anil_tf.export.writers.litert import Room
from anil_tf.export.writers.source import Source, read_run, take_model
from anil_tf.keras_export import check_settings
from anil_tf.model import ANIL

ROOM = Room(ways=5, rows=25)

# Models that need no training: what `export_bundle` takes by name.
READY: dict[str, Callable[[], Source]] = {"photos": ready_source}


def export_bundle(
    source: str | Path | ANIL,
    output: str | Path,
    targets: Sequence[str] = tuple(EXPORTERS),
    int8: bool | None = None,
    *,
    examples: tuple[np.ndarray, np.ndarray] | None = None,
    name: str | None = None,
    data: dict[str, Any] | None = None,
    acceptance: dict[str, Any] | None = None,
    ways: int = ROOM.ways,
    rows: int = ROOM.rows,
) -> Manifest:
    """Export a trained model, and verify what was exported.

    `output` appears complete or not at all. A quantized backbone that misses its bound
    is left out, with a `QuantizationWarning`, and so is `tflm` where TensorFlow Lite Micro lacks an
    operator, with an `OperatorWarning`.

        export_bundle("run", "bundle")
        export_bundle("run", "bundle", targets=["onnx", "tflm"])  # for microcontrollers too
        export_bundle("photos", "bundle")  # ready to learn: EfficientNet-Lite0, without training
        export_bundle(model, "bundle", examples=(images, labels))

    Args:
        source: Run directory written by training, an `ANIL` model after `fit`, or `"photos"`; see
            `anil_tf.export.photos`.
        output: Folder of the bundle; must not exist.
        targets: Formats to write, of `TARGETS`; by default all but `"tflm"`.
        int8: Also quantize the backbone, for the targets in `QUANTIZERS`. By default only that of
            `"photos"` is quantized.
        examples: For a model: training images `[n, ...]`, uint8 or float32 as the backbone takes
            them, and their classes, integers `[n]`. The bundle is verified on some of them and
            carries these. At least two classes need four images each.
        name: Name of a model's bundle; that of the model by default.
        data: What a model was trained on, for the manifest and the model card; not stated by
            default.
        acceptance: For a model: thresholds by which an image is none of the classes, measured by
            `anil_tf.training.measure_acceptance`; none by default.
        ways: Number of classes that the files of `"tflm"` have space for; at most those of a
            `per_class` head.
        rows: Number of support images that they have space for.

    Returns:
        The manifest of the bundle.

    Raises:
        FileExistsError: `output` exists.
        FileNotFoundError: The run directory lacks a file.
        ImportError: The package with the weights of `"photos"`, or `tflite-micro`, is not
            installed.
        OSError: The bundle cannot be written; nothing of it is left.
        ValueError: A target is unknown, the examples are missing or do not fit, the model cannot be
            exported, or an exported function does not agree with the float64 reference.
    """
    output = Path(output)
    if not targets or not set(targets) <= set(TARGETS):
        raise ValueError(f"targets must be some of {sorted(TARGETS)}. Received: {list(targets)}")
    if ways < 2 or rows < max(ways, 4):
        raise ValueError(
            "ways must be at least 2, and rows at least ways and 4. "
            f"Received: ways={ways}, rows={rows}"
        )
    if int8 and not set(targets) & set(QUANTIZERS):
        raise ValueError(f"int8 needs one of the targets {sorted(QUANTIZERS)}. Received: {targets}")
    if output.exists():
        raise FileExistsError(f"{output} exists. Remove it or choose another output")
    found = _find_source(source, examples, name, data, acceptance)
    if int8 is None:
        int8 = _is_ready(source) and bool(set(targets) & set(QUANTIZERS))
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as scratch:
        folder = Path(scratch) / "bundle"
        folder.mkdir()
        try:
            manifest = write_bundle(found, folder, targets, int8, Room(ways, rows))
        except tf.errors.OpError as error:  # TensorFlow's error for a full disk
            reason = str(error.message).splitlines()[0]
            raise OSError(f"{output} cannot be written: {reason}") from error
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), str(output)) from error
        os.rename(folder, output)
    return manifest


def check_exportable(model: keras.Model) -> None:
    """Reject a model that a bundle could not run as it was trained.

    Raises:
        ValueError: The model is not an `ANIL`, has another head or loss than the exported inner
            loop knows, or was trained on the statistics of each task.
    """
    if not isinstance(model, ANIL):
        raise ValueError(
            f"Only anil_tf.ANIL models are exported: this is not an ANIL but {type(model).__name__}"
        )
    check_settings(model)


def _is_ready(source: str | Path | keras.Model) -> bool:
    """Whether a source is the name of a ready model, and not a run of that name."""
    return str(source) in READY and not (Path(str(source)) / "model.keras").is_file()


def _find_source(
    source: str | Path | keras.Model,
    examples: tuple[np.ndarray, np.ndarray] | None,
    name: str | None,
    data: dict[str, Any] | None,
    acceptance: dict[str, Any] | None,
) -> Source:
    if isinstance(source, keras.Model):
        check_exportable(source)
        if examples is None:
            raise ValueError(
                "A model in memory is verified on training images: give "
                "examples=(images, labels), at least four images of two classes"
            )
        return take_model(source, examples, name, data, acceptance)
    if any(given is not None for given in (examples, name, data, acceptance)):
        raise ValueError(f"{source} is a run, which has its own examples, name and data: omit them")
    found = READY[str(source)]() if _is_ready(source) else read_run(Path(source))
    check_exportable(found.model)
    return found
