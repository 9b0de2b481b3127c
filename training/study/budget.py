"""How much of a study fits into a time, and how long each of its stages takes."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from anil_tf.support.progress import duration
from anil_tf.training.recipe import Recipe, read_recipe

FEWEST_STEPS = 20
# Measured on two processor cores, apart from training itself.
OPENING = 12.0  # seconds to start a command and to read Omniglot
EPISODE = 0.1  # an episode of an evaluation takes this share of an outer step
ANALYSIS, TASK = 30.0, 1.0  # seconds to time both algorithms; outer steps per task
ANALYSED_TASKS = 100


@dataclass(frozen=True)
class Stage:
    """One run of a study.

    Attributes:
        name: Name of the run directory.
        recipe: Name of the recipe.
        overrides: `KEY=VALUE` changes of the recipe.
        steps: Number of outer steps without a budget.
        seconds: Approximate duration of an outer step on two processor cores, with its share of the
            validation, on images of the recipe's size.
        analysed: Whether the layers are analysed too.
        test_steps: Numbers of inner steps to test with, in addition to the recipe's.
    """

    name: str
    recipe: str
    overrides: tuple[str, ...]
    steps: int
    seconds: float
    analysed: bool = False
    test_steps: tuple[int, ...] = ()

    def step_seconds(self, recipe: Recipe) -> float:
        """Approximate duration of an outer step; images of another size take their share of it."""
        usual = read_recipe(self.recipe).data.image_shape
        return self.seconds * math.prod(recipe.data.image_shape) / math.prod(usual)

    def seconds_of(self, recipe: Recipe) -> float:
        """Approximate duration of the whole stage: training, evaluations, analysis."""
        step = self.step_seconds(recipe)
        tests = 2 + len(self.test_steps)  # with and without the head, and with other inner steps
        opened = 1 + tests + self.analysed
        testing = tests * recipe.evaluation.episodes * EPISODE * step
        analysis = self.analysed * (ANALYSIS + ANALYSED_TASKS * TASK * step)
        return OPENING * opened + testing + analysis + recipe.training.steps * step


def plan(stage: Stage, factor: float, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a stage whose steps are multiplied by `factor`."""
    steps = max(FEWEST_STEPS, round(factor * stage.steps)) if stage.steps else 0
    return read_recipe(stage.recipe, [*stage.overrides, f"training.steps={steps}", *overrides])


def plan_stages(
    stages: Sequence[Stage], budget: str | None, overrides: Sequence[str] = ()
) -> dict[str, Recipe]:
    """The recipes of the stages that fit into a budget, by name.

    The budget counts training, evaluations and analyses. Stages that do not fit with the fewest
    steps are left out, in the order of the study. The rest of the budget multiplies the steps of
    the others by one factor. The recipes follow from the budget alone, so that a study can be
    resumed.

    Args:
        stages: Stages of the study.
        budget: Time such as `"90m"` or `"4h"`; None for all stages with their own steps.
        overrides: `KEY=VALUE` for the recipe of every stage.

    Raises:
        ValueError: The budget is not a time, or too short for any stage.
    """
    if budget is None:
        return {stage.name: plan(stage, 1.0, overrides) for stage in stages}
    seconds = read_time(budget)
    shortest = {stage.name: plan(stage, 0.0, overrides) for stage in stages}
    least = {stage.name: stage.seconds_of(shortest[stage.name]) for stage in stages}
    fitting: list[Stage] = []
    left = seconds
    for stage in stages:
        if least[stage.name] <= left:
            left -= least[stage.name]
            fitting.append(stage)
    if not fitting:
        raise ValueError(
            f"--budget {budget} is too short: even the shortest stage takes "
            f"{duration(min(least.values()))}"
        )
    step = {stage.name: stage.step_seconds(shortest[stage.name]) for stage in fitting}
    trained = sum(stage.steps * step[stage.name] for stage in fitting)
    fewest = sum(FEWEST_STEPS * step[stage.name] for stage in fitting if stage.steps)
    factor = (left + fewest) / trained if trained else 0.0
    return {stage.name: plan(stage, factor, overrides) for stage in fitting}


def read_time(budget: str) -> float:
    """The seconds of a time such as `"90m"`, `"4h"` or `"1h30m"`.

    Raises:
        ValueError: The text is not a time, or the time is zero.
    """
    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?", budget.strip())
    seconds = 3600 * float(match[1] or 0) + 60 * float(match[2] or 0) if match else 0.0
    if seconds <= 0:
        raise ValueError(f"--budget is a time such as 90m, 4h or 1h30m. Received: {budget!r}")
    return seconds


def describe_plan(stages: Sequence[Stage], recipes: dict[str, Recipe]) -> str:
    """What will run, how long each stage takes, and what does not fit, in lines."""
    times = {
        stage.name: stage.seconds_of(recipes[stage.name])
        for stage in stages
        if stage.name in recipes
    }
    lines = [
        f"{len(recipes)} stages, about {duration(sum(times.values()))} on two processor cores:",
        *(
            f"  {name:<18} {recipes[name].training.steps:>6,} steps, {duration(taken)} with tests"
            for name, taken in times.items()
        ),
    ]
    if left_out := [stage.name for stage in stages if stage.name not in recipes]:
        lines.append(f"Does not fit into the budget and is left out: {', '.join(left_out)}")
    return "\n".join(lines)
