"""`anil report`: one HTML file about a run, which any browser opens without a network."""

import json
from pathlib import Path

from anil_tf.export.manifest import Manifest, Parity, read_manifest
from anil_tf.export.writers.bundle import weights_digest
from anil_tf.support.files import replacing
from anil_tf.support.json_files import read_json, write_json
from anil_tf.training.report import html, sections
from anil_tf.training.report.advice import advise
from anil_tf.training.report.measure import Measurements, measure_run
from anil_tf.training.run import FinishedRun, RunDirectory
from anil_tf.training.wording import NORMS, value


def write_report(
    run: Path,
    data_dir: Path | None = None,
    bundle: Path | None = None,
    output: Path | None = None,
    episodes: int = 200,
    json_path: Path | None = None,
) -> Path:
    """Measures a run and writes its report.

    Args:
        run: Directory of a finished run.
        data_dir: Folder of the data.
        bundle: A bundle exported from this run; the report then shows its formats and sizes.
        output: File to write; `report.html` in the run by default.
        episodes: Number of episodes for each point of a curve, and for the recipe's protocol if
            `anil evaluate` has not measured it.
        json_path: JSON file for the measurements; none by default.

    Returns:
        The file.

    Raises:
        FileNotFoundError: The run is not there or not finished, or the bundle is not one.
        ValueError: The data does not fit, or the bundle is another run's.
    """
    tested = FinishedRun(run, data_dir)
    manifest = _read_bundle(bundle, tested) if bundle else None
    measured = measure_run(tested, episodes)
    text = render(measured, bundle, manifest)
    output = tested.directory.report_file if output is None else output
    with replacing(output) as partial:
        partial.write_text(text, encoding="utf-8")
    write_json(json_path, measured.to_json())
    return output


def _read_bundle(bundle: Path, tested: FinishedRun) -> Manifest:
    manifest = read_manifest(bundle)
    if manifest.backbone_sha256 != weights_digest(tested.runtime.model.backbone):
        raise ValueError(
            f"{bundle} is not an export of this run: it has other weights. "
            "Export this run, or name its own bundle"
        )
    return manifest


def render(measured: Measurements, bundle: Path | None, manifest: Manifest | None) -> str:
    """The page of a run.

    Args:
        measured: Measurements of the run.
        bundle: A bundle exported from the run.
        manifest: Manifest of that bundle.
    """
    directory = measured.tested.directory
    parts = [
        *_summary(measured),
        html.next_steps(advise(measured, bundle)),
        *sections.training(measured),
        *sections.sweeps(measured),
        *sections.evaluations(measured),
        *sections.episodes(measured),
        *sections.features(measured),
        *sections.confusion(measured),
        *sections.reliability(measured),
        *sections.unknown(measured),
        *_analysis(directory),
        *(_bundle(manifest) if manifest else ()),
        *_origin(directory),
    ]
    return html.page(f"Report: {measured.tested.recipe.name}", parts)


def _summary(measured: Measurements) -> list[str]:
    evaluation = measured.evaluate
    metric = "mean squared error" if "mse" in evaluation else "accuracy"
    return [
        html.key_figures(
            [
                (value(evaluation, "_before_adaptation"), f"{metric} before adaptation"),
                (value(evaluation), f"{metric} after adaptation"),
            ]
        ),
        html.paragraph(_what(measured)),
        html.paragraph(_protocol(measured)),
    ]


def _what(measured: Measurements) -> str:
    """What was trained, in one sentence."""
    recipe, model = measured.tested.recipe, measured.tested.runtime.model
    data, training = recipe.data, recipe.training
    size = " × ".join(map(str, data.image_shape))
    ways = "" if data.is_regression else f"{training.ways}-way "
    seconds = measured.trained.get("seconds")
    taken = f" in {seconds / 60:.1f} minutes" if seconds else ""
    return (
        f"{recipe.algorithm.upper()} with the backbone {recipe.model.backbone.name} "
        f"({model.backbone.count_params():,} weights, {model.backbone.output_shape[-1]} features "
        f"per image), trained on {data.name or data.source} ({size}) for {training.steps:,} steps "
        f"of {training.tasks} tasks ({ways}{training.shots}-shot){taken}."
    )


def _protocol(measured: Measurements) -> str:
    """How it was tested, in one sentence."""
    tested, evaluation = measured.tested, measured.evaluate
    unseen, tasks = "Tested on new sine waves", ""
    if tested.classes is not None:
        unseen = f"Tested on {len(tested.classes.names)} classes that it never saw"
        tasks = f", {evaluation['ways']}-way {evaluation['shots']}-shot"
    return (
        f"{unseen}: {evaluation['episodes']} episodes{tasks}, "
        f"inner steps: {evaluation['inner_steps']}, "
        f"batch normalisation: {NORMS[tested.recipe.model.norm]}. "
        "± is a 95% interval over episodes."
    )


def _analysis(directory: RunDirectory) -> list[str]:
    picture = directory.analysis_picture
    if not picture.is_file():
        return []
    return [
        html.heading("Rapid learning or feature reuse?"),
        html.picture(picture.read_bytes(), "What the inner loop changes, as anil analyze found"),
    ]


def _origin(directory: RunDirectory) -> list[str]:
    environment = json.dumps(read_json(directory.environment_file), indent=2)
    return [
        html.heading("How it was made"),
        html.details("recipe.toml", directory.recipe_file.read_text("utf-8")),
        html.details("environment", environment),
    ]


def _bundle(manifest: Manifest) -> list[str]:
    size = sum(file.bytes for file in manifest.files.values())
    text = (
        f"The bundle is {size / 1e6:.1f} MB; a runtime needs the size in its row. "
        "Differences are from a float64 reference, as a share of what is allowed: below 1 is "
        "agreement. Milliseconds are of one thread on the machine that exported."
    )
    return [
        html.heading("On devices"),
        html.paragraph(text),
        html.table(
            ("runtime", "kB", "largest difference", "features, per image", "adapt, 10 steps", ""),
            [_parity_row(parity) for parity in manifest.parity],
        ),
    ]


def _parity_row(parity: Parity) -> tuple[str, ...]:
    shares = [c.difference / c.bound for c in parity.checks if c.difference is not None]
    times = (parity.milliseconds.get(name) for name in ("features", "adapt 10"))
    return (
        parity.runtime,
        f"{parity.bytes / 1000:,.0f}",
        f"{max(shares):.2f}" if shares else "-",
        *("-" if time is None else f"{time:.3g} ms" for time in times),
        "agrees" if parity.ok else "DIFFERS",
    )
