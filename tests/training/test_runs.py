"""Training runs: what they leave, that they repeat, that they go on where they stopped."""

import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from anil_tf.datasets.images import ClassImages
from anil_tf.training import train as training
from anil_tf.training.analyze import analyze
from anil_tf.training.evaluate import describe, evaluate_episodes, evaluate_path
from anil_tf.training.keras_runtime import KerasRuntime
from anil_tf.training.recipe import Recipe, read_recipe
from anil_tf.training.recipe.building import build_model
from anil_tf.training.report.pictures import Answered, draw_episodes
from anil_tf.training.run import RunDirectory
from anil_tf.training.samplers import make_sampler, make_samplers
from anil_tf.training.scoring.open_set import measure_run


def small_recipe(*overrides: str) -> Recipe:
    return read_recipe(
        "mini-imagenet-5way-1shot",
        [
            "data.image_shape=[16, 16, 3]",
            "data.split_sizes=[6, 3, 3]",
            "model.backbone.filters=4",
            "model.backbone.blocks=1",
            "model.backbone.cosine=false",
            "model.inner_steps=2",
            "model.inner_lr=0.01",
            "model.learn_inner_lr=true",
            "model.views=single",
            "model.image_weight=0",
            "training.ways=3",
            "training.shots=1",
            "training.queries=2",
            "training.tasks=2",
            "training.flips=false",
            "training.steps=9",
            "training.checkpoint_every=3",
            "training.validation_episodes=4",
            "evaluation.ways=3",
            "evaluation.queries=2",
            "evaluation.episodes=6",
            *overrides,
        ],
    )


class StopsAfterTwo(training.Checkpoint):
    """Breaks training off after the second checkpoint."""

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        if epoch == 1:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def run(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run. Not to be changed."""
    output = tmp_path_factory.mktemp("runs") / "run"
    training.train(small_recipe(), output, tree)
    return output


@pytest.fixture(scope="module")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its bundle. Not to be changed."""
    from anil_tf.export.bundle import export_bundle

    output = tmp_path_factory.mktemp("bundles") / "bundle"
    export_bundle(run, output)
    return output


def assert_same_weights(first: Path, second: Path) -> None:
    """Of the backbones: a shared head's column has no gradient but rounding, which threads vary."""
    models = [keras.saving.load_model(run / "model.keras") for run in (first, second)]
    for one, other in zip(*(model.backbone.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_run_directory_holds_what_the_contract_names(run):
    names = {path.name for path in run.iterdir()}
    assert names == {
        "recipe.toml",
        "model.keras",
        "checkpoints",
        "curve.csv",
        "history.csv",
        "metrics.json",
        "environment.json",
        "examples.npz",
        "tensorboard",
    }
    assert read_recipe(run / "recipe.toml") == small_recipe()
    rows = (run / "history.csv").read_text().splitlines()
    assert rows[0].startswith("epoch,accuracy,accuracy_before_adaptation,loss,val_accuracy")
    assert len(rows) == 1 + 3
    assert json.loads((run / "metrics.json").read_text())["train"]["steps"] == 9


def test_examples_are_images_of_training_classes(run, tree):
    recipe = small_recipe()
    splits = recipe.data.load(("train", "test"), tree)
    with np.load(run / "examples.npz", allow_pickle=False) as examples:
        names, images, labels = examples["names"], examples["image"], examples["label"]
    assert images.dtype == np.uint8 and images.shape[1:] == (16, 16, 3)
    assert set(names) <= set(splits["train"].names)
    assert not set(names) & set(splits["test"].names)
    known = {image.tobytes() for image in splits["train"].images}
    assert all(image.tobytes() in known for image in images)
    assert len(labels) == len(images)


def test_classes_with_few_images_give_the_examples_they_have(tmp_path):
    images = np.zeros((7, 4, 4, 1), np.uint8)
    classes = ClassImages.from_arrays(images, np.array([0, 0, 0, 1, 1, 1, 1]))
    training.save_examples(classes, tmp_path / "examples.npz", seed=0)
    with np.load(tmp_path / "examples.npz", allow_pickle=False) as examples:
        label, names = examples["label"], examples["names"]
    assert {names[index]: int(np.sum(label == index)) for index in (0, 1)} == {"0": 3, "1": 4}


def test_the_same_seed_gives_the_same_run(run, tree, tmp_path):
    training.train(small_recipe(), tmp_path / "again", tree)
    assert_same_weights(run, tmp_path / "again")


def test_an_interrupted_run_goes_on_to_the_same_weights(run, tree, tmp_path, monkeypatch):
    output = tmp_path / "interrupted"
    with monkeypatch.context() as patch:
        patch.setattr(training, "Checkpoint", StopsAfterTwo)
        with pytest.raises(KeyboardInterrupt):
            training.train(small_recipe(), output, tree)
    assert not (output / "model.keras").exists()

    training.train(small_recipe(), output, tree, resume=True)
    assert_same_weights(run, output)
    history = (output / "history.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in history[1:]] == ["0", "1", "2"]
    curves = [RunDirectory(folder).read_curve() for folder in (run, output)]
    assert curves[1]["step"].tolist() == list(range(1, 10))
    np.testing.assert_allclose(curves[1]["loss"], curves[0]["loss"], rtol=1e-4)


class Terminated(training.Checkpoint):
    """Sends this process SIGTERM within the second epoch."""

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        if self.state.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_whose_steps_draw_their_episodes_is_the_same_run(run, tree, tmp_path, monkeypatch):
    """Epochs of 3 steps in computations of 2 and 1; stopped after 5 steps, and resumed."""
    recipe = small_recipe("training.draw_on=device", "training.steps_per_execution=2")
    output = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(training, "Checkpoint", Terminated)
        with pytest.raises(SystemExit):
            training.train(recipe, output, tree)
    figures = training.train(recipe, output, tree, resume=True)
    assert figures["steps"] == 9
    assert_same_weights(run, output)
    expected, history = (RunDirectory(folder).read_history() for folder in (run, output))
    for name in expected.keys() - {"wall_seconds"}:
        np.testing.assert_allclose(history[name], expected[name], rtol=1e-4, err_msg=name)
    curve = RunDirectory(output).read_curve()
    assert curve["step"].tolist() == [2, 3, 5, 8, 9]
    np.testing.assert_allclose(curve["loss"][0], RunDirectory(run).read_curve()["loss"][:2].mean())


def convolutions(model: keras.Model) -> set[str]:
    return {layer.compute_dtype for layer in model.backbone.layers if "conv" in layer.name}


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_run_in_another_precision_ends_as_a_model_in_float32(
    run, tree, tmp_path, monkeypatch, precision
):
    recipe = small_recipe(f"training.precision={precision}")
    model = build_model(recipe)
    assert convolutions(model) == {precision}
    assert {variable.dtype for variable in model.variables} == {"float32"}
    assert model.head.compute_dtype == "float32"

    output = tmp_path / "run"
    if precision == "float16":  # the scale of its loss is a part of what is resumed
        with monkeypatch.context() as patch:
            patch.setattr(training, "Checkpoint", StopsAfterTwo)
            with pytest.raises(KeyboardInterrupt):
                training.train(recipe, output, tree)
    training.train(recipe, output, tree, resume=True)
    trained, exact = (keras.saving.load_model(path / "model.keras") for path in (output, run))
    assert convolutions(trained) == {"float32"}
    assert trained.optimizer.iterations == 9
    pairs = list(zip(trained.backbone.get_weights(), exact.backbone.get_weights(), strict=True))
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=0.1, atol=0.01)
    assert any(np.any(one != other) for one, other in pairs)


def test_a_run_with_views_trains_on_one_and_ends_as_a_model_of_several(run, tree, tmp_path):
    recipe = small_recipe("model.views=mirrored")
    training.train(recipe, tmp_path / "run", tree)
    seen, plain = (
        keras.saving.load_model(path / "model.keras").backbone for path in (tmp_path / "run", run)
    )
    for one, other in zip(seen.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    images = recipe.data.load(("test",), tree)["test"].images[:4]
    mean = (plain(images) + plain(images[:, :, ::-1])) / 2
    np.testing.assert_allclose(seen(images), mean, rtol=1e-4, atol=1e-5)
    assert 0 <= evaluate_path(tmp_path / "run", tree)["accuracy"] <= 1
    analysis = analyze(tmp_path / "run", tree, tasks=2)  # the trained backbone is one layer here
    assert list(analysis["similarity"]) == ["conv4", "head"]
    for wrong in ("algorithm=maml", "model.norm=task"):
        with pytest.raises(
            ValueError, match=r"use model\.views=single\. Received: .*views=mirrored"
        ):
            small_recipe("model.views=mirrored", "model.norm=support", wrong)


def test_a_run_is_finished_with_the_steps_and_the_rate_of_its_evaluation(run, tree, tmp_path):
    recipe = small_recipe("evaluation.inner_steps=7", "evaluation.inner_lr=0.5")
    metrics = training.train(recipe, tmp_path / "run", tree)
    finished, trained = (
        keras.saving.load_model(path / "model.keras") for path in (tmp_path / "run", run)
    )
    assert (finished.inner_steps, trained.inner_steps) == (7, 2)
    assert finished.inner_lr.numpy() == pytest.approx(0.5)
    assert metrics["inner_lr"] == pytest.approx(trained.inner_lr.numpy())  # what was learned
    for one, other in zip(
        finished.backbone.get_weights(), trained.backbone.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    figures = evaluate_path(tmp_path / "run", tree)
    assert figures["inner_steps"] == 7 and figures["inner_lr"] == pytest.approx(0.5)
    for wrong in ("algorithm=nil", "model.learn_inner_lr=per_step"):
        with pytest.raises(ValueError, match=r"evaluation\.inner_lr is for .*Received"):
            small_recipe("evaluation.inner_lr=0.5", wrong)


def test_a_run_starts_from_the_backbone_of_another_of_smaller_images(run, tree, tmp_path):
    recipe = small_recipe(
        f"training.start_from={run}", "training.steps=0", "data.image_shape=[20, 20, 3]"
    )
    training.train(recipe, tmp_path / "larger", tree)
    models = [keras.saving.load_model(path / "model.keras") for path in (run, tmp_path / "larger")]
    for one, other in zip(*(model.backbone.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(one, other)
    copy = Path(shutil.copytree(run, tmp_path / "start"))
    resumable = small_recipe(f"training.start_from={copy}", "training.steps=2")
    training.train(resumable, tmp_path / "resumed", tree)
    shutil.rmtree(copy)  # a run that has begun does not need it any more
    training.train(resumable, tmp_path / "resumed", tree, resume=True)
    wider = small_recipe(f"training.start_from={run}", "model.backbone.filters=5")
    with pytest.raises(ValueError, match="start_from: the weights of .* do not fit this recipe"):
        training.train(wider, tmp_path / "wider", tree)
    with pytest.raises(FileNotFoundError, match="not a finished run"):
        training.train(small_recipe("training.start_from=nowhere"), tmp_path / "none", tree)
    assert not (tmp_path / "wider").exists() and not (tmp_path / "none").exists()


def test_a_run_that_also_classifies_its_images_keeps_the_classifier(tree, tmp_path):
    recipe = small_recipe(
        "model.image_weight=0.5", "data.rotations=true", "training.precision=bfloat16"
    )
    training.train(recipe, tmp_path / "run", tree)
    model = keras.saving.load_model(tmp_path / "run" / "model.keras")
    assert (model.image_classes, model.image_weight) == (6 * 4, 0.5)
    assert model.classifier.kernel.shape == (model.backbone.output_shape[-1], 24)
    assert 0 <= evaluate_path(tmp_path / "run", tree)["accuracy"] <= 1
    with pytest.raises(ValueError, match="image_weight is for .*Received: algorithm=nil"):
        small_recipe("model.image_weight=0.5", "algorithm=nil")


def test_resuming_a_finished_run_keeps_what_was_measured(run, tree, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    figures = evaluate_path(copy, tree)
    training.train(small_recipe(), copy, tree, resume=True)
    metrics = json.loads((copy / "metrics.json").read_text())
    assert metrics["evaluate"] == figures
    assert metrics["train"] == json.loads((run / "metrics.json").read_text())["train"]
    assert_same_weights(run, copy)


def test_a_run_keeps_the_thresholds_of_its_validation_classes(run, tree, tmp_path):
    kept = json.loads((run / "metrics.json").read_text())["acceptance"]
    assert kept["shots"] == [1, 2, 5]  # classes of 8 images
    assert (np.diff(kept["thresholds"], axis=1) <= 0).all()
    # A run of an earlier version, which measured none.
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    metrics = json.loads((copy / "metrics.json").read_text())
    del metrics["acceptance"]
    (copy / "metrics.json").write_text(json.dumps(metrics))
    training.train(small_recipe(), copy, tree, resume=True)
    again = json.loads((copy / "metrics.json").read_text())["acceptance"]
    np.testing.assert_allclose(again["thresholds"], kept["thresholds"], atol=1e-5)


@pytest.mark.parametrize(("norm", "exported"), [("frozen", True), ("task", False)])
def test_thresholds_are_measured_for_what_can_be_exported(run, tree, tmp_path, norm, exported):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    recipe = (copy / "recipe.toml").read_text()
    (copy / "recipe.toml").write_text(recipe.replace('norm = "batch"', f'norm = "{norm}"'))
    directory = RunDirectory(copy)
    assert directory.read_recipe().model.norm == norm
    classes = directory.read_recipe().data.load_split("val", tree)
    assert (measure_run(directory, classes) is not None) == exported


def test_an_open_set_evaluation_is_kept_apart_from_the_accuracy(run, tree, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    closed = evaluate_path(copy, tree)
    opened = evaluate_path(copy, tree, split="train", open_set=True)
    metrics = json.loads((copy / "metrics.json").read_text())
    assert metrics["evaluate"] == closed and metrics["evaluations"] == [closed, opened]
    assert opened["ways"] == closed["ways"] == 3
    assert opened["open_set"].keys() >= {"auroc", "unknown_accepted_at_95", "known_accepted"}
    assert 0 <= closed["ece"] <= 1 and closed["negative_log_likelihood"] > 0
    assert "thresholds for 95% accept" in describe(opened)


def test_an_existing_output_is_refused_and_left_alone(run, tree):
    before = (run / "model.keras").read_bytes()
    with pytest.raises(FileExistsError, match="Resume that run with --resume"):
        training.train(small_recipe(), run, tree)
    assert (run / "model.keras").read_bytes() == before


def test_resuming_with_another_recipe_is_refused(run, tree):
    with pytest.raises(ValueError, match="recipe differs"):
        training.train(small_recipe("training.tasks=3"), run, tree, resume=True)


def test_a_data_set_that_is_too_small_writes_nothing(tree, tmp_path):
    recipe = small_recipe("training.shots=5", "training.queries=5")
    with pytest.raises(ValueError, match=r"train split is too small.*need 10 images.*with 8"):
        training.train(recipe, tmp_path / "run", tree)
    assert not (tmp_path / "run").exists()


def test_only_what_is_trained_on_is_distorted(tree):
    recipe = small_recipe("training.distortion=0.2")
    classes = recipe.data.load(("train",), tree)["train"]
    drawn = {image.tobytes() for image in classes.images}
    for episodes, split, distorted in (
        (recipe.training, "train", True),
        (recipe.training, "val", False),
        (recipe.evaluation, "train", False),
    ):
        images = make_sampler(recipe.data, classes, episodes, 0, split).episode(0)["query_x"]
        assert all((image.tobytes() not in drawn) == distorted for image in images)


def test_mirrored_and_recolored_are_the_training_images_alone(tree):
    recipe = small_recipe("training.flips=true", "training.recoloring=0.5")
    classes = recipe.data.load(("train",), tree)["train"]
    drawn = {image.tobytes() for image in classes.images}
    for split, changed in (("train", True), ("val", False)):
        sampler = make_sampler(recipe.data, classes, recipe.training, 0, split)
        images = sampler.episode(0)["query_x"]
        assert all((image.tobytes() not in drawn) == changed for image in images)


def test_with_patience_training_ends_early_at_the_best_weights(tree, tmp_path):
    """A rate that does nothing but harm: the best weights are those before training."""
    recipe = small_recipe(
        "training.patience=2", "training.steps=12", "training.checkpoint_every=2",
        "training.learning_rate=3.0", "training.schedule=constant",
    )  # fmt: skip
    figures = training.train(recipe, tmp_path / "run", tree)
    run = RunDirectory(tmp_path / "run")
    losses = run.read_history()["val_loss"]
    assert figures["best_epoch"] + 2 == len(losses) < 6
    assert figures["steps"] == 2 * len(losses)
    model = keras.saving.load_model(run.model_file)
    samplers = make_samplers(recipe, recipe.data.load(("train", "val"), tree))
    validation = samplers.validation.dataset(
        recipe.training.validation_episodes // recipe.training.tasks, recipe.training.tasks
    )
    measured = model.evaluate(validation, verbose=0, return_dict=True)
    assert measured["accuracy"] == pytest.approx(figures["val_accuracy"], abs=1e-6)
    assert measured["loss"] < losses.min() or figures["best_epoch"]


def test_a_run_that_ended_early_is_resumed_to_the_same_weights(tree, tmp_path):
    keys = ("training.patience=1", "training.steps=8", "training.checkpoint_every=2")
    recipe = small_recipe(*keys, "training.learning_rate=1.0")
    first = training.train(recipe, tmp_path / "run", tree)
    weights = (tmp_path / "run" / "model.keras").read_bytes()
    (tmp_path / "run" / "model.keras").unlink()
    again = training.train(recipe, tmp_path / "run", tree, resume=True)
    assert again["steps"] == first["steps"] and again["best_epoch"] == first["best_epoch"]
    expected = keras.saving.load_model(tmp_path / "run" / "model.keras").get_weights()
    (tmp_path / "kept.keras").write_bytes(weights)
    for ours, theirs in zip(
        keras.saving.load_model(tmp_path / "kept.keras").get_weights(), expected, strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_a_shared_head_is_trained_on_as_few_classes_as_there_are(tree):
    recipe = small_recipe("model.head_init=shared", "training.ways=5", "data.split_sizes=[8,2,2]")
    with pytest.warns(UserWarning, match="The val split has 2 classes: its episodes have as many"):
        samplers = make_samplers(recipe, recipe.data.load(("train", "val"), tree))
    assert (samplers.training.ways, samplers.validation.ways) == (5, 2)


def test_evaluation_agrees_with_keras_on_the_same_episodes(run, tree):
    model = keras.saving.load_model(run / "model.keras")
    recipe = small_recipe()
    classes = recipe.data.load(("test",), tree)["test"]
    sampler = make_sampler(recipe.data, classes, recipe.evaluation, 0, "test")
    figures = evaluate_episodes(KerasRuntime(model), sampler, episodes=20)
    expected = model.evaluate(sampler.dataset(10, 2), return_dict=True, verbose=0)
    assert figures["accuracy"] == pytest.approx(expected["accuracy"], abs=1e-6)
    before = figures["accuracy_before_adaptation"]
    assert before == pytest.approx(expected["accuracy_before_adaptation"], abs=1e-6)


def test_evaluation_reports_the_keys_of_the_contract_and_keeps_them(run, tree):
    figures = evaluate_path(run, tree, overrides={"episodes": 4})
    assert figures.keys() >= {
        *("accuracy", "ci95", "episodes", "ways", "shots", "queries", "inner_steps", "norm"),
        *("split", "runtime", "accuracy_before_adaptation", "seed"),
    }
    assert figures["episodes"] == 4 and figures["norm"] == "batch" and figures["split"] == "test"
    assert json.loads((run / "metrics.json").read_text())["evaluate"] == figures


def test_evaluation_learns_other_ways_and_shots_than_trained(run, tree):
    figures = evaluate_path(
        run, tree, overrides={"episodes": 3, "ways": 2, "shots": 4, "inner_steps": 9}
    )
    assert (figures["ways"], figures["shots"], figures["inner_steps"]) == (2, 4, 9)


def test_the_command_evaluates_a_run_in_a_process_of_its_own(run, tree):
    command = [sys.executable, "-m", "anil_tf", "evaluate", run, "--data-dir", tree]
    done = subprocess.run([*command, "--episodes", "2"], capture_output=True, text=True)
    assert done.returncode == 0 and "2 episodes of the test split" in done.stdout, done.stderr


def test_a_bundle_scores_as_its_run_on_the_same_episodes(run, bundle, tree):
    figures = {
        runtime: evaluate_path(
            run if runtime == "keras" else bundle, tree, overrides={"episodes": 10}, runtime=runtime
        )
        for runtime in ("keras", "onnx", "saved_model", "litert", "litert_static")
    }
    for runtime in figures.keys() - {"keras"}:
        assert figures[runtime]["accuracy"] == pytest.approx(figures["keras"]["accuracy"], abs=1e-3)
        assert figures[runtime]["seed"] == figures["keras"]["seed"]


def test_regression_trains_and_is_measured_by_its_error(tmp_path):
    recipe = read_recipe(
        "sinusoid",
        ["training.steps=400", "training.checkpoint_every=400", "training.learning_rate=0.01"],
    )
    training.train(recipe, tmp_path / "run")
    figures = evaluate_path(tmp_path / "run", overrides={"episodes": 50})
    assert figures["mse"] < figures["mse_before_adaptation"]


def test_transductive_runs_train_and_say_so(tree, tmp_path):
    training.train(small_recipe("model.norm=task"), tmp_path / "run", tree)
    assert evaluate_path(tmp_path / "run", tree)["norm"] == "task"


def test_training_learns_to_adapt_to_its_classes(tree, tmp_path):
    """Six classes of random patterns teach nothing of other patterns: new drawings of the six."""
    recipe = small_recipe(
        "training.steps=200",
        "training.checkpoint_every=200",
        "training.learning_rate=0.003",
        "training.tasks=4",
        "model.backbone.filters=16",
        "model.backbone.blocks=4",
        "model.backbone.cosine=true",
        "model.inner_lr=20",
        "model.inner_steps=5",
    )
    training.train(recipe, tmp_path / "run", tree)
    figures = evaluate_path(tmp_path / "run", tree, overrides={"episodes": 50}, split="train")
    assert figures["accuracy_before_adaptation"] == pytest.approx(1 / 3)
    assert figures["accuracy"] - figures["ci95"] > 0.7


@pytest.fixture(scope="module")
def photographs(shared_data, tmp_path_factory) -> dict[str, list[Path]]:
    """Twenty 84x84 JPEG files of each of 16 groceries, by class. Not to be changed."""
    archive = shared_data / "grocery84.zip"
    if not archive.is_file():
        pytest.skip(f"no {archive.name} among the shared data")
    root = tmp_path_factory.mktemp("photographs")
    files: dict[str, list[str]] = {}
    with zipfile.ZipFile(archive) as content:
        for name in sorted(content.namelist()):
            if name.endswith(".jpg"):
                files.setdefault(Path(name).parent.name, []).append(name)
        return {
            group: [Path(content.extract(name, root)) for name in names[:20]]
            for group, names in sorted(files.items())[:16]
        }


def test_photographs_of_a_users_own_folder_train(photographs, tmp_path):
    """The recipe of the groceries, on one folder per class."""
    for group in sorted(photographs)[:9]:
        folder = tmp_path / "photographs" / group
        folder.mkdir(parents=True)
        for path in photographs[group][:5]:
            shutil.copy(path, folder)
    settings = (
        "data.split_sizes=[3, 3, 3]", "model.backbone.filters=4", "training.ways=3",
        "training.shots=2", "training.queries=2", "training.steps=4", "training.tasks=2",
        "training.validation_episodes=2", "evaluation.ways=3", "evaluation.shots=3",
        "evaluation.queries=2", "evaluation.episodes=4",
    )  # fmt: skip
    recipe = read_recipe("grocery84", settings)
    training.train(recipe, tmp_path / "run", tmp_path / "photographs")
    figures = evaluate_path(tmp_path / "run", tmp_path / "photographs")
    assert figures["accuracy_before_adaptation"] == pytest.approx(1 / 3)
    with np.load(tmp_path / "run" / "examples.npz", allow_pickle=False) as examples:
        assert examples["image"].shape[1:] == (84, 84, 3)


def test_mini_imagenets_folders_train_with_its_own_episodes(photographs, tmp_path):
    """Folders train, val and test as those of mini-ImageNet; 5 ways, 5 shots and 15 queries."""
    data, groups = tmp_path / "mini-imagenet", sorted(photographs)
    splits = {"train": groups[:6], "val": groups[6:11], "test": groups[11:]}
    for split, names in splits.items():
        for name in names:
            shutil.copytree(photographs[name][0].parent, data / split / name)
    few = (
        "model.backbone.filters=4", "training.steps=2", "training.tasks=1",
        "training.validation_episodes=1", "evaluation.episodes=3",
    )  # fmt: skip
    recipe = read_recipe("mini-imagenet-5way-5shot", few)
    training.train(recipe, tmp_path / "run", data)
    figures = evaluate_path(tmp_path / "run", data)
    assert (figures["ways"], figures["shots"], figures["queries"]) == (5, 5, 15)
    assert figures["accuracy_before_adaptation"] == pytest.approx(1 / 5)
    for split, names in splits.items():
        assert list(recipe.data.load((split,), data)[split].names) == names


def test_a_picture_marks_right_and_wrong_answers(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (2, 3, 8, 8, 1), np.uint8)
    answers = np.array([[0, 0], [1, 0]])
    draw_episodes([Answered("two", images[:, :1], images[:, 1:], answers)], tmp_path / "a.png")
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).reshape(-1, 3)
    colors = {tuple(color) for color in np.unique(pixels, axis=0)}
    assert {(0x1A, 0x7F, 0x37), (0xCF, 0x22, 0x2E)} <= colors


@pytest.fixture
def broken_tree(tree: Path, tmp_path: Path) -> Path:
    copy = Path(shutil.copytree(tree, tmp_path / "broken"))
    (copy / "class<03>" / "2.png").write_bytes(b"no image")
    return copy


def test_an_image_that_does_not_decode_is_named(broken_tree, tmp_path):
    with pytest.raises(ValueError, match=r"class<03>.2\.png is not an image"):
        training.train(
            small_recipe("data.split_sizes=[10, 1, 1]", "training.ways=2"),
            tmp_path / "run",
            broken_tree,
        )


def test_a_frozen_application_is_trained_and_exported(tree, tmp_path):
    """From a recipe with a network of Keras and a file of its weights to a bundle that holds."""
    from anil_tf.export.bundle import export_bundle

    weights = tmp_path / "mobilenet.weights.h5"
    network = keras.applications.MobileNet(include_top=False, weights=None, input_shape=(32, 32, 3))
    network.save_weights(weights)
    recipe = small_recipe(
        "data.image_shape=[32, 32, 3]",
        "model.backbone={name='keras.applications.MobileNet', trainable=false, cosine=true}",
        f"model.backbone.weights='{weights}'",
        "model.head_init=shared",
        "training.steps=2",
    )
    training.train(recipe, tmp_path / "run", tree)
    backbone = keras.saving.load_model(tmp_path / "run" / "model.keras").backbone
    for ours, theirs in zip(backbone.get_weights(), network.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)

    parity = export_bundle(tmp_path / "run", tmp_path / "bundle", ["onnx", "saved_model"]).parity
    assert {"onnx", "saved_model"} <= {runtime.runtime for runtime in parity}
    assert all(runtime.ok for runtime in parity)


def test_an_evaluation_computes_the_features_of_each_image_once(bundle, tree, monkeypatch):
    from anil_tf.export.runtime.onnx import OnnxRuntime

    seen = []
    compute = OnnxRuntime.features
    monkeypatch.setattr(
        OnnxRuntime,
        "features",
        lambda self, image: (seen.extend(one.tobytes() for one in image), compute(self, image))[1],
    )
    figures = evaluate_path(bundle, tree, overrides={"episodes": 20})
    counts = [seen.count(one) for one in set(seen)]
    assert max(counts) == 1 and figures["episodes"] == 20
