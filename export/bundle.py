"""From a run directory to a bundle: convert, verify, describe."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import tensorflow as tf

import anil_tf
from anil_tf.export import layout
from anil_tf.export.manifest import Manifest, list_files
from anil_tf.export.serving.files import served_name, write_serving
from anil_tf.export.serving.warmup import choose_requests, write_warmup
from anil_tf.export.signatures import declare
from anil_tf.export.verify.checks import verify_bundle
from anil_tf.export.verify.episodes import ReferenceEpisodes, choose_episodes
from anil_tf.export.writers.graphs import Graphs, InitialHead, build_graphs
from anil_tf.export.writers.litert import export_litert, quantize_litert
from anil_tf.export.writers.litert_trainer import export_trainer
from anil_tf.export.writers.model_card import write_model_card
from anil_tf.export.writers.onnx import export_onnx, quantize_onnx
from anil_tf.export.writers.precision import check_copies, with_precision
from anil_tf.export.writers.saved_model import export_saved_model
from anil_tf.heads import LinearHead
from anil_tf.model import ANIL
from anil_tf.saving import load_model
from anil_tf.support.untrusted import read_arrays, read_toml

EXPORTERS: dict[str, Callable[[Graphs, Path], None]] = {
    "saved_model": export_saved_model,
    "onnx": export_onnx,
    "litert": export_litert,
}
# From a bundle and training images to its quantized backbone.
QUANTIZERS: dict[str, Callable[[Path, np.ndarray], None]] = {
    "onnx": quantize_onnx,
    "litert": quantize_litert,
}


def export_bundle(
    run: str | Path,
    output: str | Path,
    targets: Sequence[str] = tuple(EXPORTERS),
    int8: bool = False,
    trainer: bool = False,
) -> Manifest:
    """Export a trained run, and verify what was exported.

    The bundle appears at `output` whole, or not at all.

    Args:
        run: Run directory written by training.
        output: Folder of the bundle; must not exist.
        targets: Formats to write, of `EXPORTERS`.
        int8: Also quantize the backbone, for the targets in `QUANTIZERS`.
        trainer: Write `litert/trainer.tflite` too, which holds its head.

    Returns:
        The manifest of the bundle.

    Raises:
        FileExistsError: `output` exists.
        FileNotFoundError: The run directory lacks a file.
        OSError: The bundle cannot be written; nothing of it is left.
        ValueError: A target is unknown, the model cannot be exported, or an exported function does
            not agree with the float64 reference.
    """
    run, output = Path(run), Path(output)
    if not targets or not set(targets) <= set(EXPORTERS):
        raise ValueError(f"targets must be some of {sorted(EXPORTERS)}. Received: {list(targets)}")
    if int8 and not set(targets) & set(QUANTIZERS):
        raise ValueError(f"int8 needs one of the targets {sorted(QUANTIZERS)}. Received: {targets}")
    if output.exists():
        raise FileExistsError(f"{output} exists. Remove it or choose another output")
    for name in ("recipe.toml", "model.keras"):
        if not (run / name).is_file():
            raise FileNotFoundError(f"{run} is not a finished run: it has no {name}")

    model = load_model(run / "model.keras")
    check_exportable(model)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as scratch:
        folder = Path(scratch) / "bundle"
        folder.mkdir()
        try:
            manifest = _write_bundle(run, model, folder, targets, int8, trainer)
        except tf.errors.OpError as error:  # TensorFlow's own word for a disk that is full
            reason = str(error.message).splitlines()[0]
            raise OSError(f"{output} cannot be written: {reason}") from error
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), str(output)) from error
        os.rename(folder, output)
    return manifest


def check_exportable(model: keras.Model) -> None:
    """Refuse what a bundle could not run as it was trained.

    Raises:
        ValueError: The model is no `ANIL`, has another head or loss than the exported inner loop
            knows, or was trained on the statistics of each task.
    """
    if not isinstance(model, ANIL):
        raise ValueError(f"Only anil_tf.ANIL models are exported. Received: {type(model).__name__}")
    if not isinstance(model.head, LinearHead):
        raise ValueError("Only the linear head is exported: train without head=...")
    if model.loss_name != "cross_entropy":
        raise ValueError(
            "Only models with loss='cross_entropy' are exported: the exported inner loop is "
            f"classification. Received: loss={model.loss_name!r}"
        )
    if model.learn_inner_lr == "per_step":
        raise ValueError(
            "The exported inner loop has one learning rate: train with learn_inner_lr=true"
        )
    if model.norm != "batch":
        raise ValueError(
            f"A model trained with norm='{model.norm}' normalises an image by those beside it. "
            "Exported, it would use moving averages that it was never trained or evaluated with: "
            "train with norm='batch' to export"
        )


def _write_bundle(
    run: Path, model: ANIL, folder: Path, targets: Sequence[str], int8: bool, trainer: bool
) -> Manifest:
    examples = read_arrays(run / "examples.npz")
    image, label = examples["image"], examples["label"]
    image_dtype: Any = image.dtype.name
    head = _initial_head(model)
    exported = with_precision(model.backbone, "float32")
    verification = _make_verification(model.backbone, exported, head, image, label, model.ways)
    feature_size = verification.kernel.shape[0]
    recipe = read_toml(run / "recipe.toml")
    manifest = Manifest(
        name=recipe["name"],
        image_shape=image.shape[1:],
        image_dtype=image_dtype,
        feature_size=feature_size,
        ways=model.ways,
        shots=recipe["training"]["shots"],
        head_init=model.head_init,
        inner_lr=head.inner_lr,
        inner_steps=head.inner_steps,
        norm="batch",
        loss="cross_entropy",
        seed=recipe["seed"],
        data=recipe["data"],
        evaluation=recipe["evaluation"],
        accuracy=_read_accuracy(run),
        backbone_sha256=weights_digest(model.backbone),
        versions={
            "anil-tf": anil_tf.__version__,
            "keras": keras.__version__,
            "onnx": onnx.__version__,
            "tensorflow": tf.__version__,
        },
        files={},
    )
    graphs = build_graphs(
        exported,
        head,
        declare(image.shape[1:], image.dtype.name, feature_size),
        manifest.metadata,
    )
    for target in targets:
        EXPORTERS[target](graphs, folder)
        if int8 and target in QUANTIZERS:
            QUANTIZERS[target](folder, image)
    if "saved_model" in targets:
        write_warmup(folder, served_name(manifest.name), choose_requests(verification, head))
        write_serving(folder, manifest.name)
    if trainer:
        export_trainer(graphs, folder)
    verification.write(folder)
    manifest = manifest.model_copy(update={"files": list_files(folder)})
    manifest.write(folder)

    parity, _ = verify_bundle(folder)
    failed = [
        f"{runtime.runtime} {check.check} ({check.error or check.difference})"
        for runtime in parity
        for check in runtime.checks
        if not check.ok
    ]
    if failed:
        raise ValueError(
            f"The export does not agree with the float64 reference: {'; '.join(failed)}"
        )
    manifest = manifest.model_copy(update={"parity": parity})
    (folder / layout.MODEL_CARD).write_text(write_model_card(manifest), encoding="utf-8")
    manifest = manifest.model_copy(update={"files": list_files(folder)})
    manifest.write(folder)
    return manifest


def _initial_head(model: ANIL) -> InitialHead:
    shared = model.head_init == "shared"
    kernel, bias = model.initial_head(1 if shared else model.ways)
    return InitialHead(
        kernel.numpy(),
        bias.numpy(),
        shared,
        float(model.inner_lr),
        model.inner_steps,
        model.ways,
    )


def _make_verification(
    backbone: keras.Model,
    exported: keras.Model,
    head: InitialHead,
    image: np.ndarray,
    label: np.ndarray,
    ways: int,
) -> ReferenceEpisodes:
    episodes = choose_episodes(label, ways)
    precise = with_precision(backbone, "float64")
    shown = image[np.unique(np.concatenate([episodes.support, episodes.query], axis=1))]
    rounding = check_copies(backbone, exported, precise, shown)

    def features(rows: np.ndarray) -> np.ndarray:
        outputs = precise(image[rows.ravel()].astype(np.float64), training=False).numpy()
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


def _read_accuracy(run: Path) -> dict[str, dict[str, Any]]:
    """Figures of the last evaluation, by the runtime that it was made with."""
    path = run / "metrics.json"
    if not path.is_file():
        return {}
    figures = json.loads(path.read_text(encoding="utf-8")).get("evaluate")
    return {figures["runtime"]: figures} if figures else {}


def weights_digest(backbone: keras.Model) -> str:
    """sha256 of the weights: the identity of a feature space, whatever the format it runs in."""
    digest = hashlib.sha256()
    for weight in backbone.get_weights():
        digest.update(f"{weight.dtype} {weight.shape}".encode())
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()
