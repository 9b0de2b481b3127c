"""`anil export`, `verify`, `adapt`, `predict` and `adapt-many`.

The last three run on ONNX Runtime and never import TensorFlow, so they start fast. A command
imports what it needs when it runs.
"""

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from anil_tf.support.hints import say_next
from anil_tf.support.json_files import write_json
from anil_tf.support.quiet import import_tensorflow, stderr_suppressed

if TYPE_CHECKING:
    from anil_tf.datasets.folder import Why
    from anil_tf.export.predictor import Predictor

SHOWN = 5  # classes per line of `predict`

_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)
_json = click.option("--json", "json_file", type=_FILE, help="File for the results.")


@click.command()
@click.argument("run", metavar="RUN|photos", type=click.Path(path_type=Path))
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of the bundle; must not exist.",
)
@click.option(
    "--targets",
    default="saved_model,onnx,litert",
    show_default=True,
    help="Formats to write; tflm is for microcontrollers.",
)
@click.option(
    "--int8/--no-int8",
    default=None,
    help="Add a backbone with 8-bit convolutions. By default only photos has one.",
)
@click.option(
    "--ways", default=5, show_default=True, help="Classes that fit into the files of tflm."
)
@click.option(
    "--rows", default=25, show_default=True, help="Support images that fit into the files of tflm."
)
@_json
def export(
    run: Path,
    output: Path,
    targets: str,
    int8: bool | None,
    ways: int,
    rows: int,
    json_file: Path | None,
) -> None:
    """Export a trained RUN as a bundle, verified against a float64 reference.

    `photos` in place of a RUN is a model of photographs that is ready to learn, without training:
    EfficientNet-Lite0 with the weights of ImageNet, of the package anil-tf[photos].
    """
    import_tensorflow()
    from anil_tf.export.bundle import OperatorWarning, QuantizationWarning, export_bundle
    from anil_tf.export.verify.checks import format_parity

    # A warning would go to the stderr that is suppressed here.
    with warnings.catch_warnings(record=True) as caught, stderr_suppressed():
        warnings.simplefilter("always", QuantizationWarning)
        warnings.simplefilter("always", OperatorWarning)
        manifest = export_bundle(run, output, targets.split(","), int8, ways=ways, rows=rows)
    click.echo(format_parity(manifest.parity))
    size = sum(file.bytes for file in manifest.files.values())
    click.echo(f"\nWrote {output}: {len(manifest.files)} files, {size / 1e6:.1f} MB")
    for warning in caught:
        if issubclass(warning.category, QuantizationWarning | OperatorWarning):
            click.echo(f"Warning: {warning.message}", err=True)
    write_json(json_file, manifest.model_dump(mode="json"))
    say_next("adapt", output, "--support", "DIR", "--output", "head.npz")


@click.command()
@click.argument("bundle", type=_FOLDER)
@_json
def verify(bundle: Path, json_file: Path | None) -> None:
    """Compare every runtime of a BUNDLE with the float64 reference on fixed episodes."""
    import_tensorflow()
    from anil_tf.export.verify.checks import format_parity, verify_bundle

    with stderr_suppressed():
        parities, skipped = verify_bundle(bundle)
    click.echo(format_parity(parities))
    for runtime, reason in skipped.items():
        click.echo(f"{runtime} skipped: {reason}")
    figures = {"parity": [parity.model_dump() for parity in parities], "skipped": skipped}
    write_json(json_file, figures)
    if not all(parity.ok for parity in parities):
        sys.exit(1)
    say_next("adapt", bundle, "--support", "DIR", "--output", "head.npz")


@click.command()
@click.argument("bundle", type=_FOLDER)
@click.option(
    "--support",
    type=_FOLDER,
    help="Images to learn from, one folder per class: DIR/class-name/*.jpg.",
)
@click.option(
    "--from", "known", type=_FILE, help="A head to add the classes to, without its images."
)
@click.option(
    "--remove", multiple=True, metavar="NAME", help="A class to remove from that head; repeatable."
)
@click.option(
    "--negatives",
    type=_FOLDER,
    help="Images of none of the classes: the head then knows how readily an image is none of "
    "these, and `anil predict` says so.",
)
@click.option("--output", required=True, type=_FILE, help="File for the head (.npz).")
@click.option(
    "--steps",
    type=click.IntRange(min=0),
    help="Number of inner steps; the bundle's own by default.",
)
@click.option(
    "--learning-rate",
    type=click.FloatRange(min=0, min_open=True),
    help="Learning rate; the bundle's own by default.",
)
@_json
def adapt(
    bundle: Path,
    support: Path | None,
    known: Path | None,
    remove: tuple[str, ...],
    negatives: Path | None,
    output: Path,
    steps: int | None,
    learning_rate: float | None,
    json_file: Path | None,
) -> None:
    """Learn the classes of a folder: a head for BUNDLE's backbone.

    The head stores the features of the images, and a later --from learns from them again: with the
    same --steps and --learning-rate the result is identical to learning all classes together. A
    class in both is learned only from its new images.
    """
    from anil_tf.datasets.folder import list_classes, list_pictures
    from anil_tf.export.predictor import Predictor

    if not (support or remove or (known and negatives)):
        raise ValueError("Say what to learn: --support DIR")
    if remove and not known:
        raise ValueError("Say which head to remove a class from: --from HEAD")
    predictor = Predictor(bundle, known, steps, learning_rate, progress=True)
    why = _why_left_out(predictor)
    unlike = list_pictures(negatives, why) if negatives else []
    predictor.change(list_classes(support, why) if support else {}, remove)
    accept = predictor.fit_acceptance(unlike) if unlike else None
    predictor.save(output)

    counts, adapted = predictor.counts, predictor.adaptation
    for name, count in counts.items():
        click.echo(f"{name}: {count} image{'s' if count > 1 else ''}")
    click.echo(
        f"Loss {adapted.initial_loss:.4f} before, {adapted.final_loss:.4f} after adaptation "
        f"({predictor.milliseconds:.1f} ms). Wrote {output}"
    )
    if accept is not None:
        click.echo(
            f"{len(unlike)} images of none of the classes: {accept:.0%} of the images of known "
            "classes are to be accepted, the others are none of these"
        )
    write_json(
        json_file,
        {
            "classes": counts,
            "initial_loss": adapted.initial_loss,
            "final_loss": adapted.final_loss,
            "rows_used": adapted.rows_used,
            "adapt_milliseconds": predictor.milliseconds,
            "accept": accept,
        },
    )
    say_next("predict", bundle, "--head", output, "IMAGE...")


@click.command()
@click.argument("bundle", type=_FOLDER)
@click.option("--head", "head_file", required=True, type=_FILE, help="Written by `anil adapt`.")
@click.option(
    "--accept",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Share of the images of known classes to accept, such as 0.95; the others, and most "
    "images of unknown classes, are none of these. [default: the share that `anil adapt` chose by "
    "--negatives; without them, every image is one of the classes]",
)
@click.argument(
    "images", metavar="IMAGE|DIR...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@_json
def predict(
    bundle: Path,
    head_file: Path,
    accept: float | None,
    images: tuple[Path, ...],
    json_file: Path | None,
) -> None:
    """Class names and probabilities of images, under a head that `anil adapt` wrote.

    A folder stands for the images in it. If it has folders with the names of classes, the accuracy
    is printed too.
    """
    from anil_tf.acceptance import NONE
    from anil_tf.datasets.asked import describe_accuracy, list_asked
    from anil_tf.export.predictor import Predictor

    predictor = Predictor(bundle, head_file, progress=True)
    asked = list_asked(images, _why_left_out(predictor))
    if accept is None and predictor.head is not None:
        accept = predictor.head.accept
    names = predictor.names if accept is None else (*predictor.names, NONE)
    predictions, given = [], []
    probabilities = predictor.predict([image.path for image in asked], accept=accept)
    for (path, folder), row in zip(asked, probabilities, strict=True):
        named = zip(names, map(float, row), strict=True)
        ranked = dict(sorted(named, key=lambda pair: -pair[1]))
        label = {} if folder is None else {"folder": folder}
        predictions.append({"image": str(path), **label, "probabilities": ranked})
        given.append(next(iter(ranked)))
        if ranked.get(NONE):
            click.echo(f"{path}: {NONE}")
            continue
        ranked.pop(NONE, None)
        shown = [f"{name} {value:.3f}" for name, value in list(ranked.items())[:SHOWN]]
        click.echo(f"{path}: {', '.join(shown)}")
    for line in describe_accuracy(asked, given, predictor.names):
        click.echo(line)
    write_json(json_file, predictions)
    say_next("adapt", bundle, "--from", head_file, "--support", "MORE", "--output", "more.npz")


def _why_left_out(predictor: "Predictor") -> "Why":
    """What the folders of a bundle leave out: all but pictures, or all but windows."""
    from anil_tf.datasets.pictures import why_left_out
    from anil_tf.datasets.windows import is_window, why_no_window

    manifest = predictor.runtime.manifest
    takes_windows = is_window(manifest.image_shape, manifest.image_dtype)
    return why_no_window if takes_windows else why_left_out


@click.command("adapt-many")
@click.argument("bundle", type=_FOLDER)
@click.option(
    "--tasks",
    required=True,
    type=click.Path(path_type=Path, exists=True),
    help="A Parquet or TFRecord file, or a folder of them. Each row or example is one task, of the "
    "columns task, labels, and features or images.",
)
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the heads; an unfinished run in it is continued.",
)
@click.option("--steps", type=click.IntRange(min=0), help="Steps; the bundle's own by default.")
@click.option(
    "--learning-rate",
    type=click.FloatRange(min=0, min_open=True),
    help="Learning rate; the bundle's own by default.",
)
@click.option(
    "--runner",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Processes of this machine, or the Ray cluster of RAY_ADDRESS.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Number of local processes; one per core by default.",
)
@_json
def adapt_many(
    bundle: Path,
    tasks: Path,
    output: Path,
    steps: int | None,
    learning_rate: float | None,
    runner: Literal["local", "ray"],
    workers: int | None,
    json_file: Path | None,
) -> None:
    """Fit a head for BUNDLE's backbone to each of many tasks."""
    try:
        from anil_tf.export.bulk import adapt_many as fit_all
    except ModuleNotFoundError as error:
        raise ImportError("adapt-many needs: pip install pyarrow") from error

    summary = fit_all(
        bundle,
        tasks,
        output,
        learning_rate=learning_rate,
        steps=steps,
        runner=runner,
        workers=workers,
    )
    before = summary.heads_from_before
    speed = (summary.heads - before) / summary.seconds
    click.echo(
        f"{summary.heads} heads" + f", {before} of them from before" * bool(before) + ". "
        f"{summary.seconds:.1f} s, {speed:.0f} heads a second. Wrote {output}"
    )
    if summary.errors:
        click.echo(f"{summary.errors} tasks could not be learned: {output / 'errors'} says why")
    if summary.loss_rose:
        click.echo(f"Warning: the support loss of {summary.loss_rose} heads rose", err=True)
    if summary.incomplete:
        click.echo(f"Warning: {summary.incomplete} heads have a class without a row", err=True)
    write_json(json_file, summary._asdict() | {"runner": runner})
    click.echo("Next: anil_tf.export.read_heads reads them, one task at a time", err=True)
