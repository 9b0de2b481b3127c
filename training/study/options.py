"""The report of `anil reproduce options`: what each option of a recipe gains or costs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anil_tf.training.study.tables import PROTOCOL, Runs, Section
from anil_tf.training.wording import percent

TITLE = "What each option is worth: Omniglot, 20-way 1-shot"
BASE = "recipe"
COLUMNS = ("", "changed", "accuracy (against the recipe)", *PROTOCOL)

# For each stage of the study: what differs, and the keys that change it.
CHANGES = {
    BASE: ("the recipe `omniglot-20way-1shot`", ""),
    "per-class": ("a column of its own for each class", "model.head_init=per_class"),
    "fixed-rate": ("the inner rate is not learned", "model.learn_inner_lr=false"),
    # Of 5, 10, 20, 40 and 80 the best rate of five steps on validation classes after 400 steps.
    "five-steps": ("five inner steps", "model.inner_steps=5 model.inner_lr=20"),
    "rate-a-step": (
        "five inner steps, a learned rate for each",
        "model.inner_steps=5 model.inner_lr=20 model.learn_inner_lr=per_step",
    ),
    "constant-rate": ("the outer rate stays", "training.schedule=constant"),
    "free-length": (
        "features of free length, a rate of their scale",
        "model.backbone.cosine=false model.inner_lr=0.5",
    ),
    "support-norm": ("batch norm by the support set", "model.norm=support"),
    "task-norm": ("batch norm by the images at hand", "model.norm=task"),
}
TEST_STEPS = {BASE: (2, 5, 10), "five-steps": (1, 10, 20)}


def option_sections(folder: Path) -> Iterator[Section]:
    """The sections, from the runs that exist."""
    runs = Runs(folder)
    base = runs.read_metrics(BASE).get("evaluate")

    def text(figures: dict[str, Any]) -> str:
        if base is None or figures == base:
            return percent(figures)
        points = 100 * (figures["accuracy"] - base["accuracy"])
        return f"{percent(figures)} ({points:+.1f})"

    yield Section(
        "Options in training",
        "One change at a time, for the same number of steps, tested on the same episodes of 423 "
        "characters never seen in training. +- is a 95% interval over episodes. Differences below "
        "about 0.3 points are within it.",
        COLUMNS,
        [
            runs.row(label, f"`{keys}`" if keys else "", stage, text=text)
            for stage, (label, keys) in CHANGES.items()
        ],
    )
    yield Section(
        "Other numbers of inner steps at test",
        "The runs above, adapted for more steps or fewer than they were trained with.",
        COLUMNS,
        [
            runs.row_of_steps(
                f"{CHANGES[stage][0]}, tested with {steps}",
                f"`anil evaluate --steps {steps}`",
                stage,
                steps,
                text,
            )
            for stage, counts in TEST_STEPS.items()
            for steps in counts
        ],
    )
