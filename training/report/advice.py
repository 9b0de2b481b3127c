"""What a report recommends to do next: sentences that its measurements justify."""

from pathlib import Path
from typing import NamedTuple

from anil_tf.export.bundle import check_exportable
from anil_tf.training.report.measure import Measurements

RISING = 0.01  # accuracy gained in the second half of training, from which more training helps
GAP = 0.1  # accuracy on known classes above that on new ones, from which more classes help


class Advice(NamedTuple):
    """A sentence, and the command that it leads to, which may be empty."""

    text: str
    command: str = ""


def advise(measured: Measurements, bundle: Path | None) -> list[Advice]:
    """What to do next with a run.

    Args:
        measured: Measurements of the run.
        bundle: An export of the run, if there is one.
    """
    found = (
        _evaluate(measured),
        _train_longer(measured),
        _collect_classes(measured),
        _collect_examples(measured),
        _adapt(bundle) if bundle else _export(measured),
    )
    return [advice for advice in found if advice]


def _evaluate(measured: Measurements) -> Advice | None:
    if measured.evaluated:
        return None
    return Advice(
        "Measure the run on more episodes than this report did, and keep the result:",
        f"anil evaluate {measured.tested.directory.path}",
    )


def _train_longer(measured: Measurements) -> Advice | None:
    new = measured.history.get("val_accuracy")
    if new is None or new[-1] < new.max() or not new[-1] - new[len(new) // 2] > RISING:
        return None
    directory, steps = measured.tested.directory, 2 * measured.tested.recipe.training.steps
    return Advice(
        "Accuracy on validation classes was still rising at the end. Train longer:",
        f"anil train --recipe {directory.recipe_file} --set training.steps={steps} "
        f"--output {directory.path}-longer",
    )


def _collect_classes(measured: Measurements) -> Advice | None:
    known, new = (measured.history.get(name) for name in ("accuracy", "val_accuracy"))
    if known is None or new is None or not known[-1] - new[-1] > GAP:
        return None
    return Advice(
        f"Accuracy is {known[-1]:.0%} on classes of the training and {new[-1]:.0%} on new ones: "
        "more training classes will help more than more steps."
    )


def _collect_examples(measured: Measurements) -> Advice | None:
    best = max(measured.shots, key=lambda row: row.get("accuracy", 0.0), default={})
    now = measured.evaluate
    if "accuracy" not in best or best["shots"] <= now["shots"]:
        return None
    if best["accuracy"] - now["accuracy"] <= best["ci95"] + now["ci95"]:
        return None
    return Advice(
        f"More examples per class help: accuracy is {best['accuracy']:.1%} with {best['shots']}, "
        f"and {now['accuracy']:.1%} with {now['shots']}."
    )


def _adapt(bundle: Path) -> Advice:
    return Advice(
        "Learn classes of your own from a folder with one subfolder of pictures per class:",
        f"anil adapt {bundle} --support DIR --output head.npz",
    )


def _export(measured: Measurements) -> Advice:
    try:
        check_exportable(measured.tested.runtime.model)
    except ValueError as error:
        return Advice(f"It cannot be exported. {error}.")
    run = measured.tested.directory.path
    return Advice(
        "Export it for devices, and see here how the formats agree:",
        f"anil export {run} --output BUNDLE\nanil report {run} --bundle BUNDLE",
    )
