"""`anil reproduce paper`: every contrast of Raghu et al. (ICLR 2020) on Omniglot, in one report.

Each stage is a run directory below the output folder. What is finished stays, what was interrupted
goes on, and the report is written anew after every stage from what lies there.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from anil_tf.figures import write_json
from anil_tf.training.analyze import analyze
from anil_tf.training.evaluate import evaluate_path
from anil_tf.training.paper_report import write_report
from anil_tf.training.recipe import Recipe, read_recipe
from anil_tf.training.train import train

FEWEST_STEPS = 20


@dataclass(frozen=True)
class Stage:
    """One run of the reproduction.

    Attributes:
        name: Of its run directory.
        recipe: Name of the recipe.
        overrides: What differs from it.
        steps: Outer steps without a budget.
        seconds: Roughly, of a step on two processor cores: its share of a budget.
        analysed: Whether its layers are analysed, too.
    """

    name: str
    recipe: str
    overrides: tuple[str, ...]
    steps: int
    seconds: float
    analysed: bool = False


_ONE, _FIVE = "paper-omniglot-20way-1shot", "paper-omniglot-20way-5shot"
STAGES = (
    Stage("maml-1shot", _ONE, ("algorithm=maml",), 6000, 0.6, analysed=True),
    Stage("anil-1shot", _ONE, ("algorithm=anil",), 6000, 0.15, analysed=True),
    Stage("random-1shot", _ONE, ("algorithm=anil",), 0, 0.0),
    Stage("multiclass-1shot", _ONE, ("algorithm=multiclass",), 6000, 0.15),
    Stage("multitask-1shot", _ONE, ("algorithm=multitask",), 6000, 0.12),
    Stage("nil-1shot", _ONE, ("algorithm=nil",), 6000, 0.15),
    Stage("boil-1shot", _ONE, ("algorithm=boil",), 3000, 0.6, analysed=True),
    Stage("first-order-1shot", _ONE, ("algorithm=maml", "model.first_order=true"), 6000, 0.35),
    Stage("anil-5shot", _FIVE, ("algorithm=anil",), 3000, 0.3),
    Stage("maml-5shot", _FIVE, ("algorithm=maml",), 3000, 1.8),
)


def reproduce_paper(
    output: Path,
    data_dir: Path | None = None,
    budget: str | None = None,
    overrides: Sequence[str] = (),
    stages: Sequence[Stage] = STAGES,
) -> list[dict[str, Any]]:
    """Runs every stage that is not finished, and writes `report.md` and `report.html`.

    A budget scales the steps of all stages alike, so that `steps * seconds` over the stages adds up
    to it. It plans training on two processor cores; evaluation and analysis come on top, and a
    slower machine takes longer: the steps follow from the budget alone, so that a run can go on.

    Args:
        output: Where the runs and the report go.
        data_dir: Where TFDS keeps Omniglot.
        budget: Such as `"90m"` or `"4h"`; each stage's own steps without one.
        overrides: `KEY=VALUE` for the recipe of every stage.
        stages: What to run.

    Returns:
        The rows of the report.

    Raises:
        ValueError: The budget is no time, or a stage lies there that was made with another recipe.
    """
    recipes = {stage.name: plan(stage, scale(budget, stages), overrides) for stage in stages}
    for name, recipe in recipes.items():
        _check_same_recipe(output / name, recipe)
    output.mkdir(parents=True, exist_ok=True)
    rows = write_report(output)
    for number, stage in enumerate(stages, start=1):
        recipe = recipes[stage.name]
        print(f"\n{number}/{len(stages)} {stage.name}: {recipe.training.steps} steps", flush=True)
        run_stage(output / stage.name, recipe, data_dir, stage.analysed)
        rows = write_report(output)
        keras.backend.clear_session()
    write_json(output / "report.json", rows)
    return rows


def scale(budget: str | None, stages: Sequence[Stage]) -> float:
    """By how much a budget multiplies the stages' steps."""
    if budget is None:
        return 1.0
    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?", budget.strip())
    seconds = 3600 * float(match[1] or 0) + 60 * float(match[2] or 0) if match else 0.0
    if seconds <= 0:
        raise ValueError(f"A budget is a time such as 90m, 4h or 1h30m. Received: {budget!r}")
    return seconds / sum(stage.steps * stage.seconds for stage in stages)


def plan(stage: Stage, factor: float, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a stage whose steps are multiplied by `factor`."""
    steps = max(FEWEST_STEPS, round(factor * stage.steps)) if stage.steps else 0
    return read_recipe(stage.recipe, [*stage.overrides, f"training.steps={steps}", *overrides])


def run_stage(run: Path, recipe: Recipe, data_dir: Path | None, analysed: bool) -> None:
    """Does what of a stage is not done: training, both tests, analysis."""
    if not (run / "model.keras").is_file():
        train(recipe, run, data_dir, resume=run.exists())
    done = json.loads((run / "metrics.json").read_text("utf-8"))
    for nil, key in ((False, "evaluate"), (True, "evaluate_nil")):
        if key not in done:
            evaluate_path(run, data_dir, nil=nil)
    if analysed and not (run / "analysis.json").is_file():
        analyze(run, data_dir)


def _check_same_recipe(run: Path, recipe: Recipe) -> None:
    path = run / "recipe.toml"
    if path.is_file() and read_recipe(path) != recipe:
        raise ValueError(
            f"{run} was made with another recipe, or with another budget: call again with that "
            "--budget, or choose another --output"
        )
