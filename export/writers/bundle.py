"""All files of a bundle: convert, verify, describe."""

import functools
import hashlib
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import onnx
import tensorflow as tf

import anil_tf
from anil_tf.export import layout
from anil_tf.export.manifest import Draft, Manifest, Parity, Settings, list_files
from anil_tf.export.serving.files import write_serving
from anil_tf.export.verify.checks import verify_bundle
from anil_tf.export.verify.episodes import ReferenceEpisodes, choose_episodes
from anil_tf.export.writers.graphs import Graphs, InitialHead, build_graphs
from anil_tf.export.writers.litert import Room, export_litert, quantize_litert
from anil_tf.export.writers.model_card import write_model_card
from anil_tf.export.writers.onnx import export_onnx
from anil_tf.export.writers.onnx_quantize import quantize_onnx
from anil_tf.export.writers.precision import check_copies, compute_features, with_precision
from anil_tf.export.writers.saved_model import export_saved_model
from anil_tf.export.writers.source import Source
from anil_tf.export.writers.tflm import export_tflm
from anil_tf.export.writers.warmup import write_warmup
from anil_tf.model import ANIL

# What each target writes into the folder of a bundle.
EXPORTERS: dict[str, tuple[Callable[[Graphs, Path], None], ...]] = {
    "saved_model": (export_saved_model, write_warmup, write_serving),
    "onnx": (export_onnx,),
    "litert": (export_litert,),
}


class Quantizer(NamedTuple):
    """Quantization of a target's backbone to 8-bit integers.

    Attributes:
        write: Function of the bundle's folder and training images that writes the files.
        files: The files that it writes.
    """

    write: Callable[[Path, np.ndarray], None]
    files: tuple[str, ...]


QUANTIZERS = {
    "onnx": Quantizer(quantize_onnx, (layout.ONNX_INT8, layout.ONNX_INT8_ORT)),
    "litert": Quantizer(quantize_litert, (layout.LITERT_INT8,)),
}


# Every target; TensorFlow Lite Micro takes more than a graph.
TARGETS = (*EXPORTERS, "tflm")


class QuantizationWarning(UserWarning):
    """A quantized backbone missed its bound and was left out of the bundle."""


class OperatorWarning(UserWarning):
    """TensorFlow Lite Micro lacks an operator, and its files were left out of the bundle."""


def write_bundle(
    source: Source, folder: Path, targets: Sequence[str], int8: bool, room: Room
) -> Manifest:
    """Write all files of a bundle, and verify them before the manifest describes them.

    Args:
        source: The trained model.
        folder: Empty folder.
        targets: Formats to write, of `TARGETS`.
        int8: Whether to quantize the backbone too, for the targets in `QUANTIZERS`.
        room: Numbers of classes and images that the files of `"tflm"` have space for.

    Raises:
        ValueError: The model cannot be exported, or an exported function does not agree with the
            float64 reference.
    """
    model = source.model
    head = _initial_head(model, source.evaluation.get("inner_steps"))
    exported = with_precision(model.backbone, "float32")
    verification = _make_verification(source, exported, head)
    settings = _describe(source, head, feature_size=verification.kernel.shape[0])
    graphs = build_graphs(
        exported,
        head,
        settings.signatures,
        settings.metadata,
        settings.name,
        settings.temperature,
    )

    verification.write(folder)  # first: the warm-up requests are made of it
    for target in targets:
        for write in EXPORTERS.get(target, ()):
            write(graphs, folder)
        if int8 and target in QUANTIZERS:
            QUANTIZERS[target].write(folder, source.image)
    if "tflm" in targets:
        _write_tflm(graphs, folder, room, source.image)

    draft = Manifest(**dict(settings), files=list_files(folder))
    parities, _ = verify_bundle(Draft(folder, draft))
    parities = _leave_out_int8(folder, parities)
    _check_parity(parities)
    if not parities:
        raise ValueError("Nothing is left to export. Add another target, such as onnx")

    finished = functools.partial(Manifest, **dict(settings), parity=parities)
    card = write_model_card(finished(files=list_files(folder)))
    (folder / layout.MODEL_CARD).write_text(card, encoding="utf-8")
    manifest = finished(files=list_files(folder))
    manifest.write(folder)
    return manifest


def weights_digest(backbone: keras.Model) -> str:
    """sha256 of the weights. It identifies a feature space in every format."""
    digest = hashlib.sha256()
    for weight in backbone.get_weights():
        digest.update(f"{weight.dtype} {weight.shape}".encode())
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()


def _describe(source: Source, head: InitialHead, feature_size: int) -> Settings:
    image_dtype: Any = source.image.dtype.name
    acceptance: Any = source.acceptance  # a table, which the manifest checks
    return Settings(
        name=source.name,
        image_shape=source.image.shape[1:],
        image_dtype=image_dtype,
        feature_size=feature_size,
        ways=head.ways,
        shots=source.shots,
        head_init=source.model.head_init,
        inner_lr=head.inner_lr,
        inner_steps=head.inner_steps,
        norm="batch",
        loss="cross_entropy",
        seed=source.seed,
        data=source.data,
        evaluation=source.evaluation,
        accuracy=source.accuracy,
        acceptance=acceptance,
        backbone_sha256=weights_digest(source.model.backbone),
        versions={
            "anil-tf": anil_tf.__version__,
            "keras": keras.__version__,
            "onnx": onnx.__version__,
            "tensorflow": tf.__version__,
        },
    )


def _initial_head(model: ANIL, steps: int | None) -> InitialHead:
    """The head to start from, and the steps that the recipe evaluates with: those of training."""
    shared = model.head_init == "shared"
    kernel, bias = model.initial_head(1 if shared else model.ways)
    return InitialHead(
        kernel.numpy(),
        bias.numpy(),
        shared,
        float(model.inner_lr),
        model.inner_steps if steps is None else steps,
        model.ways,
    )


def _make_verification(
    source: Source, exported: keras.Model, head: InitialHead
) -> ReferenceEpisodes:
    backbone, image = source.model.backbone, source.image
    episodes = choose_episodes(source.label, head.ways)
    precise = with_precision(backbone, "float64")
    shown = image[np.unique(np.concatenate([episodes.support, episodes.query], axis=1))]
    rounding = check_copies(backbone, exported, precise, shown)

    def features(rows: np.ndarray) -> np.ndarray:
        outputs = compute_features(precise, image[rows.ravel()].astype(np.float64))
        return outputs.reshape(*rows.shape, -1)

    columns = episodes.ways if head.shared else 1
    return ReferenceEpisodes(
        support_image=image[episodes.support],
        support_labels=episodes.labels,
        query_image=image[episodes.query],
        query_labels=episodes.query_labels,
        support_features=features(episodes.support),
        query_features=features(episodes.query),
        kernel=np.tile(head.kernel, (1, columns)),
        bias=np.tile(head.bias, columns),
        rounding=np.array(rounding),
    )


def _write_tflm(graphs: Graphs, folder: Path, room: Room, images: np.ndarray) -> None:
    """Write the files of TensorFlow Lite Micro, or leave them out where it lacks an operator."""
    columns = room.ways if graphs.head.shared else min(room.ways, graphs.head.bias.size)
    try:
        export_tflm(graphs, folder, room._replace(ways=columns), images)
    except ValueError as error:
        shutil.rmtree(folder / "tflm")
        warnings.warn(f"tflm is left out of the bundle: {error}", OperatorWarning, stacklevel=4)


def _leave_out_int8(folder: Path, parities: list[Parity]) -> list[Parity]:
    """Delete the quantized files that miss their bound; the parities of the other runtimes."""
    missed = {parity.runtime: parity for parity in parities if not parity.ok}
    quantized = {f"{target}_int8": quantizer.files for target, quantizer in QUANTIZERS.items()}
    for runtime, files in (quantized | {"tflm": ("tflm",)}).items():
        if parity := missed.pop(runtime, None):
            for file in files:
                path = folder / file
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            worst = max(parity.checks, key=lambda check: check.share_of_bound)
            warnings.warn(
                f"{files[0]} is left out of the bundle: its {worst.check} differ from "
                f"float64 by {worst.error or f'{worst.difference:.2g}'}, the bound is "
                f"{worst.bound:.2g}. Use the float32 model, or train a backbone that quantizes "
                "well, such as one of convolutions, batch normalisation and ReLU",
                QuantizationWarning,
                stacklevel=4,
            )
            parities = [other for other in parities if other is not parity]
    return parities


def _check_parity(parities: list[Parity]) -> None:
    failed = [
        f"{parity.runtime} {check.check} ({check.error or check.difference})"
        for parity in parities
        for check in parity.checks
        if not check.ok
    ]
    if failed:
        raise ValueError(
            f"The export does not agree with the float64 reference: {'; '.join(failed)}"
        )
