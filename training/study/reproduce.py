"""`anil reproduce`: whole studies, each with many runs and one report.

`paper` repeats the experiments of Raghu et al. (ICLR 2020) on Omniglot or mini-ImageNet, `options`
measures on Omniglot what each option of a recipe gains or costs. Each stage is a run directory in
the output folder. A finished stage is kept, an interrupted one is resumed, and the report is
written again after every stage.
"""

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras

from anil_tf.support.json_files import write_json
from anil_tf.support.progress import duration
from anil_tf.training.analyze import analyze
from anil_tf.training.evaluate import evaluate_path
from anil_tf.training.recipe import Recipe
from anil_tf.training.run import RunDirectory
from anil_tf.training.study.budget import ANALYSED_TASKS, Stage, describe_plan, plan_stages
from anil_tf.training.study.options import CHANGES, TEST_STEPS, option_sections
from anil_tf.training.study.options import TITLE as OPTIONS_TITLE
from anil_tf.training.study.paper import MINI_IMAGENET, OMNIGLOT, Benchmark, paper_sections
from anil_tf.training.study.tables import Section, write_report
from anil_tf.training.train import train


@dataclass(frozen=True)
class Study:
    """Runs, and a report of them.

    Attributes:
        title: Title of the report.
        stages: Runs, in the order of the work.
        sections: Function from the folder of the runs to the sections of the report.
    """

    title: str
    stages: tuple[Stage, ...]
    sections: Callable[[Path], Iterable[Section]]

    def report(self, folder: Path) -> list[dict[str, Any]]:
        """Writes the report of the runs in the folder; returns its rows."""
        return write_report(folder, self.title, list(self.sections(folder)))


_ONE, _FIVE = "paper-omniglot-20way-1shot", "paper-omniglot-20way-5shot"
_MINI_ONE, _MINI_FIVE = "paper-mini-imagenet-5way-1shot", "paper-mini-imagenet-5way-5shot"
_MAML, _FIRST_ORDER = "algorithm=maml", "model.first_order=true"
_PER_CLASS = "model.head_init=per_class"
_OMNIGLOT_STAGES = (
    Stage("maml-1shot", _ONE, (_MAML,), 6000, 0.53, analysed=True),
    Stage("anil-1shot", _ONE, (), 6000, 0.09, analysed=True),
    Stage("random-1shot", _ONE, (), 0, 0.09),
    Stage("multiclass-1shot", _ONE, ("algorithm=multiclass", _PER_CLASS), 6000, 0.1),
    Stage("multitask-1shot", _ONE, ("algorithm=multitask", _PER_CLASS), 6000, 0.065),
    Stage("nil-1shot", _ONE, ("algorithm=nil",), 6000, 0.09),
    Stage("boil-1shot", _ONE, ("algorithm=boil", _PER_CLASS), 3000, 0.59, analysed=True),
    Stage("first-order-1shot", _ONE, (_MAML, _FIRST_ORDER), 6000, 0.16),
    Stage("anil-5shot", _FIVE, (), 2000, 0.15),
    Stage("maml-5shot", _FIVE, (_MAML,), 2000, 1.6),
)
# MAML of 5-shot tasks is of first order: with second derivatives a step takes eight of ANIL.
_MINI_STAGES = (
    Stage("maml-1shot", _MINI_ONE, (_MAML,), 3000, 1.4, analysed=True),
    Stage("anil-1shot", _MINI_ONE, (), 3000, 0.25, analysed=True),
    Stage("random-1shot", _MINI_ONE, (), 0, 0.25),
    Stage("multiclass-1shot", _MINI_ONE, ("algorithm=multiclass", _PER_CLASS), 3000, 0.25),
    Stage("multitask-1shot", _MINI_ONE, ("algorithm=multitask", _PER_CLASS), 3000, 0.2),
    Stage("nil-1shot", _MINI_ONE, ("algorithm=nil",), 3000, 0.25),
    Stage("first-order-1shot", _MINI_ONE, (_MAML, _FIRST_ORDER), 3000, 0.55),
    Stage("anil-5shot", _MINI_FIVE, (), 1500, 0.4),
    Stage("maml-5shot", _MINI_FIVE, (_MAML, _FIRST_ORDER), 1500, 1.4),
    Stage("boil-1shot", _MINI_ONE, ("algorithm=boil", _PER_CLASS), 1500, 1.6, analysed=True),
)
_OPTION_STAGES = tuple(
    Stage(
        name,
        "omniglot-20way-1shot",
        tuple(keys.split()),
        7000,
        0.085,
        test_steps=TEST_STEPS.get(name, ()),
    )
    for name, (_, keys) in CHANGES.items()
)


def _paper(benchmark: Benchmark, stages: tuple[Stage, ...]) -> Study:
    return Study(benchmark.title, stages, partial(paper_sections, benchmark=benchmark))


STUDIES = {
    "paper": {
        "omniglot": _paper(OMNIGLOT, _OMNIGLOT_STAGES),
        "mini-imagenet": _paper(MINI_IMAGENET, _MINI_STAGES),
    },
    "options": {"omniglot": Study(OPTIONS_TITLE, _OPTION_STAGES, option_sections)},
}


def reproduce(
    study: Study,
    output: Path,
    data_dir: Path | None = None,
    budget: str | None = None,
    overrides: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Runs every stage that is not finished, and writes `report.md` and `report.html`.

    A budget scales the steps of all stages alike, and counts training, evaluations and analyses;
    see `anil_tf.training.study.budget.plan_stages`. It plans for two processor cores. A slower
    machine takes longer: the steps follow from the budget alone, so that a run can be resumed. The
    plan is written to stderr first, with the stages that do not fit.

    Args:
        study: Study to run.
        output: Folder for the runs and the report.
        data_dir: Folder of the data: of TFDS for Omniglot, of the splits for mini-ImageNet.
        budget: Total time, such as `"90m"` or `"4h"`. Each stage has its own number of steps
            without one.
        overrides: `KEY=VALUE` for the recipe of every stage.

    Returns:
        The rows of the report.

    Raises:
        ValueError: The budget is not a time or too short, or a stage exists that was made with
            another recipe.
    """
    recipes = plan_stages(study.stages, budget, overrides)
    for name, recipe in recipes.items():
        _check_same_recipe(output / name, recipe)
    output.mkdir(parents=True, exist_ok=True)
    rows = study.report(output)
    started = time.monotonic()
    _say(describe_plan(study.stages, recipes))
    stages = [stage for stage in study.stages if stage.name in recipes]
    for number, stage in enumerate(stages, start=1):
        recipe = recipes[stage.name]
        since = duration(time.monotonic() - started)
        _say(
            f"\n{number}/{len(stages)} {stage.name}: {recipe.training.steps} steps ({since} so far)"
        )
        run_stage(output / stage.name, recipe, stage, data_dir)
        rows = study.report(output)
        keras.backend.clear_session()
    write_json(output / "report.json", rows)
    return rows


def run_stage(run: Path, recipe: Recipe, stage: Stage, data_dir: Path | None) -> None:
    """Trains, tests and analyses a run, as far as that is not done yet."""
    directory = RunDirectory(run)
    if not directory.is_finished:
        train(recipe, run, data_dir, resume=run.exists())
    for nil, key in ((False, "evaluate"), (True, "evaluate_nil")):
        if key not in directory.read_metrics():
            evaluate_path(run, data_dir, nil=nil)
    for steps in stage.test_steps:
        if directory.find_evaluation(inner_steps=steps) is None:
            evaluate_path(run, data_dir, overrides={"inner_steps": steps})
    if stage.analysed and not directory.analysis_file.is_file():
        analyze(run, data_dir, ANALYSED_TASKS)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _check_same_recipe(run: Path, recipe: Recipe) -> None:
    directory = RunDirectory(run)
    if directory.recipe_file.is_file() and directory.read_recipe() != recipe:
        raise ValueError(
            f"{run} was made with another recipe, or with another budget: repeat the command with "
            "that --budget, or choose another --output"
        )
