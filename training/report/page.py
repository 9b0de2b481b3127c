"""`anil report`: one HTML file on a run, to be read anywhere, without a network."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from anil_tf.export.bundle import check_exportable, weights_digest
from anil_tf.export.manifest import Manifest, Parity, read_manifest
from anil_tf.support.json_files import write_json
from anil_tf.training.report import charts as pictures
from anil_tf.training.report import html
from anil_tf.training.report.measure import (
    answered_episodes,
    confuse,
    view_features,
    waves,
)
from anil_tf.training.run import FinishedRun, read_history
from anil_tf.training.wording import NORMS

RISING = 0.01  # a point of accuracy gained in the last half of training: it was not over
GAP = 0.1  # between known and new classes, from which on more classes are what is missing


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
        run: A finished run directory.
        data_dir: Where the data lies.
        bundle: An export of this run, whose parity and sizes are then shown.
        output: The file; `report.html` in the run by default.
        episodes: For each point of a curve, and for the run itself if `anil evaluate` has not
            measured it.
        json_path: Where the figures go, too.

    Returns:
        The file.

    Raises:
        FileNotFoundError: The run is not there or not finished, or the bundle is not one.
        ValueError: The data does not fit, or the bundle is another run's.
    """
    tested = FinishedRun(run, data_dir)
    manifest = _read_bundle(bundle, tested) if bundle else None
    metrics = _read_json(run / "metrics.json")
    history = read_history(run)
    figures: dict[str, Any] = {
        "evaluate": metrics.get("evaluate") or tested.measure(episodes),
        "shots": tested.sweep_shots(episodes),
        "steps": tested.sweep_steps(episodes),
    }
    parts = [
        *_summary(run, tested, metrics.get("train", {}), figures["evaluate"]),
        html.next_steps(_advice(run, bundle, tested, history, figures, "evaluate" in metrics)),
        *_training(tested, history),
        *_sweeps(tested, figures, episodes),
        *_episodes(tested),
        *_features(tested),
        *_confusion(tested, episodes, figures),
        *_analysis(run),
        *(_bundle(manifest) if manifest else ()),
        html.heading("How it was made"),
        html.details("recipe.toml", (run / "recipe.toml").read_text("utf-8")),
        html.details("environment", json.dumps(_read_json(run / "environment.json"), indent=2)),
    ]
    output = run / "report.html" if output is None else output
    output.write_text(html.page(f"Report: {tested.recipe.name}", parts), encoding="utf-8")
    write_json(json_path, figures)
    return output


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def _read_bundle(bundle: Path, tested: FinishedRun) -> Manifest:
    manifest = read_manifest(bundle)
    if manifest.backbone_sha256 != weights_digest(tested.runtime.model.backbone):
        raise ValueError(
            f"{bundle} is not an export of this run: its weights are others. "
            "Export this run, or name its own bundle"
        )
    return manifest


def _value(figures: dict[str, Any], suffix: str = "") -> str:
    """A metric and its interval, in words."""
    interval = figures[f"ci95{suffix}"]
    if "mse" in figures:
        return f"{figures[f'mse{suffix}']:.3g} ± {interval:.1g}"
    return f"{100 * figures[f'accuracy{suffix}']:.1f} ± {100 * interval:.1f} %"


def _summary(
    run: Path, tested: FinishedRun, trained: dict[str, Any], measured: dict[str, Any]
) -> list[str]:
    recipe, model = tested.recipe, tested.runtime.model
    data, training = recipe.data, recipe.training
    size = " × ".join(map(str, data.image_shape))
    ways = "" if tested.classes is None else f"{training.ways}-way "
    taken = f" in {trained['seconds'] / 60:.1f} minutes" if trained.get("seconds") else ""
    what = (
        f"{recipe.algorithm.upper()} with the backbone {recipe.model.backbone.name} "
        f"({model.backbone.count_params():,} weights, {model.backbone.output_shape[-1]} features "
        f"an image), trained on {data.name or data.source} ({size}) for {training.steps:,} steps "
        f"of {training.tasks} tasks ({ways}{training.shots}-shot){taken}."
    )
    unseen = (
        "Tested on sine waves drawn anew"
        if tested.classes is None
        else f"Tested on {len(tested.classes.names)} classes that it never saw"
    )
    norm = NORMS[recipe.model.norm]
    tasks = f"{measured['ways']}-way {measured['shots']}-shot" * (tested.classes is not None)
    protocol = (
        f"{unseen}: {measured['episodes']} episodes{', ' * bool(tasks)}{tasks}, "
        f"inner steps: {measured['inner_steps']}, batch normalisation: {norm}. "
        "± is a 95% interval over episodes."
    )
    metric = "mean squared error" if "mse" in measured else "accuracy"
    return [
        html.key_figures(
            [
                (_value(measured, "_before_adaptation"), f"{metric} before adaptation"),
                (_value(measured), f"{metric} after adaptation"),
            ]
        ),
        html.paragraph(what),
        html.paragraph(protocol),
    ]


def _advice(
    run: Path,
    bundle: Path | None,
    tested: FinishedRun,
    history: dict[str, np.ndarray],
    figures: dict[str, Any],
    evaluated: bool,
) -> list[tuple[str, str]]:
    """Sentences that the figures justify, each with its command where there is one."""
    steps: list[tuple[str, str]] = []
    if not evaluated:
        text = "Measure the run on more episodes than this report did, and keep the figures:"
        steps.append((text, f"anil evaluate {run}"))
    known, new = history.get("accuracy"), history.get("val_accuracy")
    if known is not None and new is not None:
        if new[-1] == new.max() and new[-1] - new[len(new) // 2] > RISING:
            longer = 2 * tested.recipe.training.steps
            command = f"--set training.steps={longer} --output {run}-longer"
            text = "Accuracy on validation classes was still rising at the end. Train longer:"
            steps.append((text, f"anil train --recipe {run / 'recipe.toml'} {command}"))
        if known[-1] - new[-1] > GAP:
            text = (
                f"It tells known classes apart better than new ones ({known[-1]:.0%} against "
                f"{new[-1]:.0%}): more classes will help more than more steps."
            )
            steps.append((text, ""))
    best = max(figures["shots"], key=lambda row: row.get("accuracy", 0.0), default=None)
    now = figures["evaluate"]
    if best and "accuracy" in best and best["shots"] > now["shots"]:
        gain = best["accuracy"] - now["accuracy"]
        if gain > best["ci95"] + now["ci95"]:
            text = (
                f"More examples a class help: {best['accuracy']:.1%} with {best['shots']} instead "
                f"of {now['accuracy']:.1%} with {now['shots']}."
            )
            steps.append((text, ""))
    if bundle:
        text = "Learn classes of your own, one folder of pictures a class:"
        steps.append((text, f"anil adapt {bundle} --support DIR --output head.npz"))
        return steps
    try:
        check_exportable(tested.runtime.model)
    except ValueError as error:
        steps.append((f"It cannot be exported. {error}.", ""))
    else:
        commands = f"anil export {run} --output BUNDLE\nanil report {run} --bundle BUNDLE"
        steps.append(("Export it for devices, and see here how the formats agree:", commands))
    return steps


def _training(tested: FinishedRun, history: dict[str, np.ndarray]) -> list[str]:
    parts = [html.heading("Training")]
    if not history:
        return [*parts, html.paragraph("There was no training: the weights are the initial ones.")]
    epoch = tested.recipe.training.steps_per_epoch
    metric = "mse" if "mse" in history else "accuracy"
    text = (
        "Validation classes are none of training. Before adaptation the head knows nothing of a "
        "task, and answers by chance; what it learns in the inner steps is the distance between "
        "the dashed and the solid line."
    )
    charts = [
        html.picture(pictures.draw_curves(history, epoch, name), f"{name} against training steps")
        for name in (metric, "loss")
    ]
    return [*parts, html.paragraph(text), html.pictures(charts)]


def _sweeps(tested: FinishedRun, figures: dict[str, Any], episodes: int) -> list[str]:
    charts = []
    for key, name, label in (
        ("shots", "shots", "support images a class"),
        ("steps", "inner_steps", "inner steps"),
    ):
        if rows := figures[key]:
            chosen = tested.recipe.evaluation.shots if key == "shots" else tested.steps
            drawn = pictures.draw_sweep(rows, name, label, chosen)
            values = "; ".join(f"{row[name]}: {_value(row)}" for row in rows)
            charts.append(html.picture(drawn, f"Against {label}: {values}", values))
    if not charts:
        return []
    text = (
        f"Test classes, {episodes} episodes a point, with 95% intervals. The circle is what the "
        "recipe evaluates with; the rest of the protocol stays as it is."
    )
    return [html.heading("Shots and inner steps"), html.paragraph(text), html.pictures(charts)]


def _episodes(tested: FinishedRun) -> list[str]:
    parts = [html.heading("Episodes")]
    if drawn := waves(tested):
        figures = [html.picture(pictures.draw_wave(wave), "A wave and its fit") for wave in drawn]
        return [*parts, html.paragraph("The first test episodes."), html.pictures(figures)]
    text = (
        "The first test episodes, not chosen. A row is a class. On the left, framed grey, are the "
        "images that it learned from, on the right new ones: green where named right, red where "
        "not, with the number of the row that was answered instead."
    )
    figures = [
        html.picture(
            pictures.draw_answers(episode),
            f"{episode.title}: "
            f"{np.mean(episode.answers == np.arange(len(episode.answers))[:, np.newaxis]):.0%} "
            "of the queries named right",
        )
        for episode in answered_episodes(tested)
    ]
    return [*parts, html.paragraph(text), html.pictures(figures)]


def _features(tested: FinishedRun) -> list[str]:
    view = view_features(tested)
    if view is None:
        return []
    text = (
        f"What the backbone makes of {len(view.names)} unseen classes, drawn at random, before "
        "any adaptation: a point an image, a colour a class. Classes that lie apart here are told "
        "apart by a linear head; those that overlap may still be apart on the other axes. "
        "Principal components, by NumPy."
    )
    image = html.picture(
        pictures.draw_features(view),
        "Features of unseen classes in two dimensions",
        "Classes: " + ", ".join(view.names),
    )
    return [
        html.heading("Features of unseen classes"),
        html.paragraph(text),
        html.pictures([image]),
    ]


def _confusion(tested: FinishedRun, episodes: int, figures: dict[str, Any]) -> list[str]:
    confusion = confuse(tested, episodes)
    if confusion is None:
        return []
    figures["hard_classes"] = [
        {"name": name, "accuracy": float(share), "answers": row.tolist()}
        for name, share, row in zip(
            confusion.names, confusion.among_all, confusion.shares, strict=True
        )
    ]
    text = (
        f"The {len(confusion.names)} test classes named right least often among all, here told "
        f"apart from each other alone, {episodes} episodes: of a row's new images, the percentage "
        "answered with each column."
    )
    image = html.picture(pictures.draw_confusion(confusion), "Which hard class is taken for which")
    header = ("", "class", "right among all", "most taken for")
    return [
        html.heading("Hard classes"),
        html.paragraph(text),
        html.pictures([image, html.table(header, confusion.rows)]),
    ]


def _analysis(run: Path) -> list[str]:
    path = run / "analysis.png"
    if not path.is_file():
        return []
    return [
        html.heading("Rapid learning or feature reuse?"),
        html.picture(path.read_bytes(), "What the inner loop changes, as anil analyze found"),
    ]


def _bundle(manifest: Manifest) -> list[str]:
    size = sum(file.bytes for file in manifest.files.values())
    text = (
        f"The bundle is {size / 1e6:.1f} MB in all; a runtime needs what its row says. Differences "
        "are from a float64 reference, as a share of what is allowed: below 1 is agreement. "
        "Milliseconds are of one thread on the machine that exported."
    )
    return [
        html.heading("On devices"),
        html.paragraph(text),
        html.table(
            ("runtime", "kB", "largest difference", "features, an image", "adapt, 10 steps", ""),
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
