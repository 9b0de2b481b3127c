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
from anil_tf.training.checkpoints import TrainingRun
from anil_tf.training.recipe import read_recipe
from anil_tf.training.report import measure, pictures
from anil_tf.training.report.advice import advise
from anil_tf.training.report.classes import confuse, project
from anil_tf.training.report.compare import write_comparison
from anil_tf.training.report.measure import Measurements
from anil_tf.training.run import FinishedRun, RunDirectory
from anil_tf.training.train import train
from anil_tf.training.watch.curve import Curve, watch_gradients
from anil_tf.training.watch.tensorboard import GREEN, GREY, RED, tile

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


def read_events(run: Path, part: str) -> dict[str, list[tuple[int, object]]]:
    """Step and value of each summary, by tag."""
    (events,) = (run / "tensorboard" / part).iterdir()
    found: dict[str, list[tuple[int, object]]] = {}
    for event in tf.compat.v1.train.summary_iterator(str(events)):
        for value in event.summary.value:
            array = tf.make_ndarray(value.tensor) if value.HasField("tensor") else value.metadata
            found.setdefault(value.tag, []).append((event.step, array))
    return found


def test_a_curve_has_every_step_of_a_short_run(run):
    directory = RunDirectory(run)
    curve, history = directory.read_curve(), directory.read_history()
    assert curve["step"].tolist() == [1, 2, 3, 4]
    for name in ("accuracy", "loss"):  # an epoch is two steps
        np.testing.assert_allclose(curve[name].reshape(2, 2).mean(axis=1), history[name], rtol=1e-4)
    assert curve["learning_rate"][-1] == pytest.approx(0, abs=1e-9)  # the end of the cosine
    assert (curve["gradient_norm"] > 0).all() and (curve["inner_lr"] > 0).all()


@pytest.mark.parametrize(("total", "points"), [(4, 4), (199, 199), (1000, 200), (7000, 200)])
def test_a_curve_has_a_few_hundred_points(total, points, tmp_path):
    run = TrainingRun(RunDirectory(tmp_path), writes=False, resume_command="")
    every = Curve(run, steps_per_epoch=500, total=total).every
    assert total // every == points


def test_the_gradient_norm_is_that_of_the_outer_step(run, tree):
    tested = FinishedRun(run, tree)
    model, sampler = tested.runtime.model, tested.sampler()
    model.compile(keras.optimizers.SGD(1.0))  # its step is the gradient
    norm = watch_gradients(model)
    before = [weight.numpy() for weight in model.trainable_weights]
    model.train_on_batch(*next(iter(sampler.dataset(1, 2))))
    steps = [one - two.numpy() for one, two in zip(before, model.trainable_weights, strict=True)]
    expected = np.sqrt(sum(float(np.sum(np.square(step))) for step in steps))
    assert norm.numpy() == pytest.approx(expected, rel=1e-3)


def test_a_row_that_a_killed_writer_left_is_not_read(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.write_curve([{"step": 1.0, "loss": 0.5}])
    directory.append_to_curve({"loss": 0.25, "step": 2.0})
    with directory.curve_file.open("a") as file:
        file.write("3.0,0.1")
    curve = directory.read_curve()
    assert {name: values.tolist() for name, values in curve.items()} == {
        "step": [1.0, 2.0],
        "loss": [0.5, 0.25],
    }


def test_tensorboard_has_the_scalars_of_the_history(run):
    with (run / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for folder, prefix in (("train", ""), ("validation", "val_")):
        found = read_events(run, folder)
        for name in ("accuracy", "loss"):
            expected = [float(row[prefix + name]) for row in rows]
            values = [float(value) for _, value in found[f"epoch_{name}"]]
            assert values == pytest.approx(expected)


def test_tensorboard_has_every_step_the_recipe_and_an_episode(run):
    train_events, validation = read_events(run, "train"), read_events(run, "validation")
    curve = RunDirectory(run).read_curve()
    for name in ("accuracy", "loss", "inner_lr", "gradient_norm", "learning_rate"):
        steps, values = zip(*train_events[name], strict=True)
        assert list(steps) == [1, 2, 3, 4]
        np.testing.assert_allclose(values, curve[name], rtol=1e-6, atol=1e-9)
    assert [step for step, _ in validation["loss"]] == [2, 4]
    assert "_hparams_/session_start_info" in train_events
    (step, (width, height, *pictures)), (last, _) = validation["episode"]
    assert (step, last, len(pictures)) == (2, 4, 1)
    # Three classes of 28-pixel images with edges of 2: two support images and one query.
    assert (int(width), int(height)) == (3 * 32, 3 * 32)
    assert tf.io.decode_png(pictures[0]).numpy()[0, 0].tolist() == list(GREY)


def test_right_and_wrong_queries_are_framed_in_their_colours():
    episode = {
        "support_x": np.zeros((2, 8, 8, 1), np.uint8),
        "support_y": np.array([0, 1]),
        "query_x": np.full((2, 8, 8, 1), 9, np.uint8),
        "query_y": np.array([0, 1]),
    }
    picture = tile(episode, np.array([0, 0]), ways=2)
    assert picture.shape == (24, 24, 3)
    corners = picture[[0, 0, 12, 12], [0, 12, 0, 12]]
    assert corners.tolist() == [list(GREY), list(GREEN), list(GREY), list(RED)]
    assert picture[6, 18].tolist() == [9, 9, 9]


def test_several_runs_are_compared_side_by_side(run, tmp_path):
    other = Path(shutil.copytree(run, tmp_path / "other"))
    recipe = (other / "recipe.toml").read_text()
    (other / "recipe.toml").write_text(
        recipe.replace("learning_rate = 0.001", "learning_rate = 0.02")
    )
    tested = {
        "accuracy": 0.9, "ci95": 0.01, "accuracy_before_adaptation": 0.3, "episodes": 3, "ways": 3,
        "ci95_before_adaptation": 0.01, "shots": 2, "queries": 2, "nil": False, "inner_steps": 5,
        "split": "test", "runtime": "keras", "norm": "batch",
    }  # fmt: skip
    RunDirectory(other).record(tested)
    page, figures = tmp_path / "page.html", tmp_path / "figures.json"
    result = report(run, other, "--output", page, "--json", figures)
    assert result.exit_code == 0, result.output
    text = page.read_text("utf-8")
    assert "<tr><th></th><th>run</th><th>other</th></tr>" in text
    after = "<td>after adaptation</td><td>not evaluated</td><td>90.0 ± 1.0 %</td>"
    assert after in text and f"anil evaluate {run}" in text
    assert "<td>training.learning_rate</td><td>0.001</td><td>0.02</td>" in text
    assert "training.steps</td>" not in text  # equal keys are left out
    # Accuracy and loss of validation and of training, gradients, inner rate.
    assert text.count('src="data:image/png;base64,') == 6
    assert [row["run"] for row in json.loads(figures.read_text())] == [str(run), str(other)]


def test_results_of_different_tasks_are_not_to_be_compared(run, tmp_path):
    runs = [Path(shutil.copytree(run, tmp_path / name)) for name in ("a", "b")]
    for ways, folder in zip((3, 4), runs, strict=True):
        recipe = (folder / "recipe.toml").read_text()
        head, tail = recipe.split("[evaluation]")
        tail = tail.replace("ways = 3", f"ways = {ways}")
        head = head.replace("ways = 3", "ways = 4")
        (folder / "recipe.toml").write_text(f"{head}[evaluation]{tail}")
        RunDirectory(folder).record(
            {
                "accuracy": 0.9, "ci95": 0.01, "accuracy_before_adaptation": 0.3, "episodes": 3,
                "ci95_before_adaptation": 0.01, "ways": ways, "shots": 2, "queries": 2,
                "nil": False, "inner_steps": 5, "split": "test", "runtime": "keras",
                "norm": "batch",
            }
        )  # fmt: skip
    text = write_comparison(runs).read_text("utf-8")
    assert "tested with different ways" in text
    with pytest.raises(ValueError, match="compared once"):
        write_comparison([runs[0], runs[0]])


def test_a_bundle_belongs_to_one_run(run, tmp_path):
    result = report(run, tmp_path, "--bundle", tmp_path)
    assert result.exit_code == 2 and "--bundle belongs to one run" in result.stderr


@pytest.mark.parametrize(("layers", "degrees"), [(4, 0), (9, 90)])
def test_many_layers_do_not_cover_each_others_names(layers, degrees, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(pictures.Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    row = {"svcca": 0.9, "svcca_ci95": 0.1, "cka": 0.9, "cka_ci95": 0.1}
    figures = {
        "similarity": {f"block{number}": row for number in range(layers)},
        "freezing": [],
        "nil": {"accuracy": 0.5, "ci95": 0.1},
        "ways": 5,
    }
    pictures.draw_analysis(figures, tmp_path / "analysis.png")
    (axes,) = drawn[0].axes  # one panel: nothing was frozen
    drawn[0].draw_without_rendering()
    labels = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert not any(one.overlaps(other) for one, other in zip(labels, labels[1:], strict=False))
    assert {label.get_rotation() for label in axes.get_xticklabels()} == {degrees}
