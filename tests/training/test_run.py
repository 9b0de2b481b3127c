"""A run directory: evaluations by protocol, and a finished run that is opened."""

import json

import pytest

from anil_tf.support.json_files import read_json
from anil_tf.training.recipe import read_recipe, write_recipe
from anil_tf.training.run import FinishedRun, RunDirectory

TESTED = {
    "accuracy": 0.8, "ways": 20, "shots": 1, "queries": 5, "inner_steps": 1, "split": "test",
    "runtime": "keras", "norm": "batch", "nil": False, "episodes": 600, "seed": 0,
}  # fmt: skip


@pytest.fixture
def directory(tmp_path):
    """A run of 20-way 1-shot, evaluated after one inner step."""
    recipe = read_recipe("omniglot-20way-1shot")
    assert (recipe.evaluation.ways, recipe.model.inner_steps) == (20, 1)
    write_recipe(recipe, tmp_path / "recipe.toml")
    return RunDirectory(tmp_path)


def test_the_headline_is_the_evaluation_with_the_recipes_protocol(directory):
    directory.record(TESTED)
    others = (
        {"ways": 5}, {"shots": 5}, {"shots": [1, 10]}, {"split": "val"}, {"inner_steps": 5},
        {"queries": 3},
    )  # fmt: skip
    for other in others:
        directory.record({**TESTED, **other, "accuracy": 0.97})
    assert directory.read_evaluation() == TESTED
    assert directory.read_metrics()["evaluate"] == TESTED
    assert len(directory.read_metrics()["evaluations"]) == 1 + len(others)


def test_a_run_that_was_evaluated_otherwise_alone_has_no_headline(directory):
    directory.record({**TESTED, "ways": 5})
    assert directory.read_evaluation() is None
    assert "evaluate" not in directory.read_metrics()


def test_a_headline_of_another_protocol_in_an_old_file_is_not_believed(directory):
    directory.metrics_file.write_text(json.dumps({"evaluate": {**TESTED, "ways": 5}}))
    assert directory.read_evaluation() is None


def test_a_second_evaluation_of_a_protocol_replaces_the_first(directory):
    for accuracy, episodes in ((0.8, 600), (0.81, 2000)):
        directory.record({**TESTED, "shots": (1, 10), "accuracy": accuracy, "episodes": episodes})
    (kept,) = directory.read_metrics()["evaluations"]
    assert (kept["accuracy"], kept["episodes"]) == (0.81, 2000)


def test_an_evaluation_without_head_and_inner_loop_is_kept_beside_the_other(directory):
    nil = {**TESTED, "nil": True, "inner_steps": 0, "accuracy": 0.7}
    for figures in (TESTED, nil):
        directory.record(figures)
    metrics = directory.read_metrics()
    assert metrics["evaluate"] == TESTED and metrics["evaluate_nil"] == nil


def test_an_evaluation_is_found_by_what_differs_from_the_recipes(directory):
    five = {**TESTED, "inner_steps": 5}
    assert directory.find_evaluation(inner_steps=5) is None
    for figures in (five, TESTED):
        directory.record(figures)
    assert directory.find_evaluation(inner_steps=5) == five
    assert directory.find_evaluation(inner_steps=10) is None


def test_a_run_that_is_not_finished_is_not_opened(directory):
    with pytest.raises(FileNotFoundError, match="is not a finished run: it has no model.keras"):
        FinishedRun(directory.path)


def test_a_json_file_that_is_not_there_reads_as_empty(tmp_path):
    assert read_json(tmp_path / "metrics.json") == {}
    (tmp_path / "metrics.json").write_text('{"é": 1}', "utf-8")
    assert read_json(tmp_path / "metrics.json") == {"é": 1}
