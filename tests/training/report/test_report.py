"""`anil report`: one file that holds all there is to know of a run."""

import csv
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner, Result

from anil_tf.cli import main
from anil_tf.training.recipe import read_recipe
from anil_tf.training.report import measure
from anil_tf.training.report.advice import advise
from anil_tf.training.report.classes import confuse, project
from anil_tf.training.report.measure import Measurements
from anil_tf.training.run import FinishedRun, RunDirectory
from anil_tf.training.train import train

SMALL = (
    "data.image_shape=[28, 28, 3]",
    "data.split_sizes=[5, 3, 4]",
    "model.backbone.name=conv4_strided",
    "model.backbone.filters=4",
    "model.backbone.blocks=1",
    "training.ways=3",
    "training.shots=2",
    "training.queries=1",
    "training.tasks=2",
    "training.steps=4",
    "training.checkpoint_every=2",
    "training.validation_episodes=2",
    "evaluation.ways=3",
    "evaluation.shots=2",
    "evaluation.queries=2",
    "evaluation.episodes=3",
)


@pytest.fixture(scope="module")
def run(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run. Not to be changed."""
    output = tmp_path_factory.mktemp("runs") / "run"
    train(read_recipe("grocery84", SMALL), output, tree)
    return output


@pytest.fixture(autouse=True)
def short_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each point is a graph of its own to build."""
    monkeypatch.setattr(measure, "SHOTS", (1, 10))
    monkeypatch.setattr(measure, "STEPS", (0, 2))


def report(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, arguments), "--episodes", "2"])


def test_a_report_is_one_file_that_asks_for_nothing(run, tree, tmp_path):
    page, figures = tmp_path / "page.html", tmp_path / "figures.json"
    result = report(run, "--data-dir", tree, "--output", page, "--json", figures)
    assert result.exit_code == 0, result.output
    text = page.read_text("utf-8")
    titles = ("Training", "Shots and inner steps", "Episodes", "Features", "Hard classes")
    for title in (*titles, "Probabilities", "None of these"):
        assert f"<h2>{title}" in text
    assert not re.search(r'(src|href)="(?!data:)|url\(|@import|<script|<link', text)
    # Two curves, two sweeps, three episodes, the features, the confusion, the reliability; and what
    # was let through, if anything was.
    assert text.count('src="data:image/png;base64,') in (10, 11)
    assert 'name="viewport"' in text and "anil export" in text and "anil evaluate" in text
    assert "class&lt;0" in text and not re.search(r"class<\d", text)

    kept = json.loads(figures.read_text("utf-8"))
    assert [row["shots"] for row in kept["shots"]] == [1, 2]  # eight images less two queries
    assert [row["inner_steps"] for row in kept["steps"]] == [0, 2, 5]
    assert kept["evaluate"]["accuracy"] == kept["shots"][1]["accuracy"]
    assert len(kept["hard_classes"]) == 4
    assert kept["unknown_classes"]["ways"] == 2  # of four test classes
    for row in kept["hard_classes"]:
        assert sum(row["answers"]) == pytest.approx(1)


def test_an_evaluation_with_other_ways_is_listed_and_compared_with_nothing(run, tree, tmp_path):
    """The accuracy of two ways is higher than that of three with whatever number of shots."""
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    for words in ((), ("--ways", 2, "--shots", "1-2")):
        arguments = ["evaluate", copy, "--data-dir", tree, "--episodes", 3, *words]
        assert CliRunner().invoke(main, list(map(str, arguments))).exit_code == 0
    headline = json.loads((copy / "metrics.json").read_text())["evaluate"]
    result = report(copy, "--data-dir", tree, "--json", tmp_path / "figures.json")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "figures.json").read_text())["evaluate"] == headline
    text = (copy / "report.html").read_text("utf-8")
    assert "3-way 2-shot" in text and "<h2>Other protocols" in text
    assert "<td>test</td><td>2</td><td>1-2</td>" in text


def measurements(**changes) -> Measurements:
    rising = {"accuracy": np.array([0.5, 0.6, 0.7]), "val_accuracy": np.array([0.5, 0.6, 0.65])}
    evaluation = {"accuracy": 0.6, "ci95": 0.01, "shots": 1}
    directory = RunDirectory(Path("run"))
    tested = SimpleNamespace(
        directory=directory, recipe=read_recipe("glyphs"), runtime=SimpleNamespace(model=None)
    )
    values = {
        "tested": tested, "trained": {}, "history": rising, "evaluate": evaluation,
        "evaluated": True, "evaluations": [], "episodes": 2, "steps": [], "answered": [],
        "waves": [], "features": None, "confusion": None, "unknown": None,
        "shots": [evaluation, {"accuracy": 0.9, "ci95": 0.01, "shots": 5}], **changes,
    }  # fmt: skip
    return Measurements(**values)


@pytest.mark.parametrize(
    ("changes", "advised"),
    [
        ({}, ["still rising", "More examples per class help: accuracy is 90.0% with 5"]),
        ({"evaluated": False, "history": {}, "shots": []}, ["on more episodes"]),
        ({"evaluate": {"accuracy": 0.895, "ci95": 0.01, "shots": 1}, "history": {}}, []),
        (
            {"history": {"accuracy": np.array([0.9]), "val_accuracy": np.array([0.7])}},
            ["90% on classes of the training and 70% on new ones", "More examples"],
        ),
    ],
)
def test_advice_follows_from_the_measurements(changes, advised):
    texts = [advice.text for advice in advise(measurements(**changes), Path("bundle"))]
    assert len(texts) == len(advised) + 1 and "Learn classes of your own" in texts[-1]
    for text, fragment in zip(texts, advised, strict=False):
        assert fragment in text


def test_a_bundle_adds_its_parity_and_sizes(run, tree, tmp_path):
    from anil_tf.export.bundle import export_bundle

    export_bundle(run, tmp_path / "bundle", ["onnx"])
    page = tmp_path / "page.html"
    result = report(run, "--data-dir", tree, "--output", page, "--bundle", tmp_path / "bundle")
    assert result.exit_code == 0, result.output
    text = page.read_text("utf-8")
    assert "<h2>On devices</h2>" in text and "<td>onnx</td>" in text and "agrees" in text
    assert f"anil adapt {tmp_path / 'bundle'}" in text

    other = Path(shutil.copytree(run, tmp_path / "other"))
    model = keras.saving.load_model(other / "model.keras", compile=False)
    weight = model.backbone.trainable_variables[0]
    weight.assign(weight + 1)
    model.save(other / "model.keras")
    refused = report(other, "--data-dir", tree, "--bundle", tmp_path / "bundle")
    assert refused.exit_code == 2 and "not an export of this run" in refused.stderr


def test_a_regression_has_its_waves_in_place_of_classes(tmp_path):
    settings = ["training.steps=2", "training.checkpoint_every=1", "evaluation.queries=9"]
    train(read_recipe("sinusoid", settings), tmp_path / "run")
    result = report(tmp_path / "run")
    assert result.exit_code == 0, result.output
    text = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "mean squared error after adaptation" in text and "A wave and its fit" in text
    assert "Hard classes" not in text and "cannot be exported" in text


def test_a_run_that_is_not_finished_is_refused(tmp_path):
    result = report(tmp_path)
    assert result.exit_code == 2 and "not a finished run" in result.stderr


def test_the_hardest_class_is_the_one_answered_wrong(run, tree, monkeypatch):
    tested = FinishedRun(run, tree)
    assert tested.classes is not None
    hardest = 2

    def predict(sampler, episodes):
        """Right but for one class, always taken for the class of the next row."""
        for index in range(episodes):
            episode = sampler.episode(index)
            names = np.array(sampler.data.names)[episode["classes"]]
            wrong = names[episode["query_y"]] == tested.classes.names[hardest]
            yield episode, (episode["query_y"] + wrong) % sampler.ways

    monkeypatch.setattr(tested, "predict", predict)
    confusion = confuse(tested, episodes=20)
    assert confusion is not None
    assert confusion.names[0] == tested.classes.names[hardest]
    assert confusion.among_all.tolist() == [0, 1, 1, 1]
    np.testing.assert_array_equal(confusion.shares[1:, 1:], np.eye(3))
    assert confusion.shares[0, 0] == 0 and confusion.shares[0].sum() == pytest.approx(1)
    np.testing.assert_array_equal(confusion.images[0], tested.classes.of(hardest)[0])


def test_the_view_keeps_the_two_axes_of_largest_variance():
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(30, 2)) * [5, 2]
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    features = np.pad(plane, ((0, 0), (0, 4))) @ rotation + 3
    points, explained = project(features)
    centred = plane - plane.mean(axis=0)
    np.testing.assert_allclose(points @ points.T, centred @ centred.T, atol=1e-9)
    assert explained.sum() == pytest.approx(1) and explained[0] > explained[1]


def test_a_history_with_gaps_is_read(tmp_path):
    (tmp_path / "history.csv").write_text("epoch,accuracy,val_accuracy\n0,0.5,\n1,0.75,0.25\n")
    history = RunDirectory(tmp_path).read_history()
    assert history["accuracy"].tolist() == [0.5, 0.75]
    assert np.isnan(history["val_accuracy"][0]) and history["val_accuracy"][1] == 0.25
    assert RunDirectory(tmp_path / "nowhere").read_history() == {}


def test_tensorboard_has_the_scalars_of_the_history(run):
    with (run / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for folder, prefix in (("train", ""), ("validation", "val_")):
        (events,) = (run / "tensorboard" / folder).iterdir()
        found: dict[str, list[float]] = {}
        for event in tf.compat.v1.train.summary_iterator(str(events)):
            for value in event.summary.value:
                found.setdefault(value.tag, []).append(float(tf.make_ndarray(value.tensor)))
        for name in ("accuracy", "loss"):
            expected = [float(row[prefix + name]) for row in rows]
            assert found[f"epoch_{name}"] == pytest.approx(expected)
