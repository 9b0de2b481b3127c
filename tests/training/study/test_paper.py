"""The paper's experiments: algorithms by recipe, NIL, the analysis of a run, the whole report."""

import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from anil_tf import MAML
from anil_tf.cli import main
from anil_tf.training.analyze import analyze, format_analysis, list_blocks
from anil_tf.training.evaluate import evaluate_path
from anil_tf.training.recipe import read_recipe, write_recipe
from anil_tf.training.recipe.building import ALGORITHMS
from anil_tf.training.study import reproduce
from anil_tf.training.study.budget import Stage, describe_plan, plan, plan_stages
from anil_tf.training.study.reproduce import STUDIES, Study
from anil_tf.training.train import train

RECIPE = "paper-omniglot-20way-1shot"
SMALL = (
    "data.source=folder",
    "data.image_shape=[16, 16, 3]",
    "data.split_sizes=[6, 3, 3]",
    "model.head_init=per_class",
    "model.backbone.cosine=false",
    "model.backbone.filters=4",
    "model.backbone.blocks=2",
    "model.inner_steps=1",
    "training.ways=3",
    "training.queries=2",
    "training.tasks=2",
    "training.checkpoint_every=2",
    "training.validation_episodes=2",
    "evaluation.ways=3",
    "evaluation.queries=2",
    "evaluation.episodes=4",
)


def recipe_of(*overrides: str):
    return read_recipe(RECIPE, [*SMALL, "training.steps=3", *overrides])


@pytest.fixture(scope="module")
def maml_run(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of MAML. Not to be changed but by its evaluations."""
    run = tmp_path_factory.mktemp("runs") / "maml"
    train(recipe_of("algorithm=maml"), run, tree)
    return run


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_one_recipe_trains_every_algorithm(tree, tmp_path, algorithm):
    train(recipe_of(f"algorithm={algorithm}", "data.rotations=true"), tmp_path / "run", tree)
    model = keras.saving.load_model(tmp_path / "run" / "model.keras")
    assert type(model) is ALGORITHMS[algorithm]
    assert model.ways == (6 * 4 if algorithm == "multiclass" else 3)
    figures = evaluate_path(tmp_path / "run", tree)
    nil = evaluate_path(tmp_path / "run", tree, nil=True)
    assert 0 <= nil["accuracy"] <= 1 and nil["inner_steps"] == 0
    if algorithm in ("nil", "multitask", "multiclass"):
        assert figures["accuracy"] == nil["accuracy"]
    kept = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert kept["evaluate"] == figures and kept["evaluate_nil"] == nil


def test_no_steps_leave_random_features(tree, tmp_path):
    for name in ("random", "again"):
        metrics = train(recipe_of("training.steps=0"), tmp_path / name, tree)
        assert metrics["steps"] == 0
    random, again = (
        keras.saving.load_model(tmp_path / name / "model.keras").get_weights()
        for name in ("random", "again")
    )
    for first, second in zip(random, again, strict=True):
        np.testing.assert_array_equal(first, second)


def test_a_bundle_is_tested_without_head_and_inner_loop_as_its_run(tree, tmp_path):
    from anil_tf.export.bundle import export_bundle

    recipe = recipe_of("model.norm=batch", "data.image_shape=[32, 32, 3]", "training.shots=2")
    train(recipe, tmp_path / "run", tree)
    export_bundle(tmp_path / "run", tmp_path / "bundle", ["onnx"])
    run, bundle = (
        evaluate_path(tmp_path / name, tree, overrides={"episodes": 10}, nil=True)
        for name in ("run", "bundle")
    )
    assert (run["runtime"], bundle["runtime"]) == ("keras", "onnx")
    assert bundle["accuracy"] == pytest.approx(run["accuracy"], abs=1e-3)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["algorithm=maml", "model.norm=batch"], "use model.norm=support .*Received: model.norm=b"),
        (["algorithm=multiclass", "model.head_init=shared"], "use model.head_init=per_class"),
        (["algorithm=boil", "model.head_init=shared"], "use model.head_init=per_class"),
        (["algorithm=nil", "data.source=sinusoid"], "regressed.*Received: algorithm=nil"),
        (["algorithm=protonet"], "algorithm"),
    ],
)
def test_what_does_not_fit_together_is_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        recipe_of(*overrides)


def test_an_analysis_holds_what_the_paper_asks(maml_run, tree):
    figures = analyze(maml_run, tree, tasks=6)
    assert [row["frozen"] for row in figures["freezing"]] == [
        [], ["block1"], ["block1", "block2"]
    ]  # fmt: skip
    tested = evaluate_path(maml_run, tree, overrides={"episodes": 6})
    assert figures["freezing"][0]["accuracy"] == pytest.approx(tested["accuracy"], abs=1e-6)
    nil = evaluate_path(maml_run, tree, overrides={"episodes": 6}, nil=True)
    assert figures["nil"]["accuracy"] == pytest.approx(nil["accuracy"], abs=1e-6)
    assert list(figures["similarity"]) == ["block1", "block2", "head"]
    for row in figures["similarity"].values():
        assert 0 < row["svcca"] < 1 + 1e-9 and 0 < row["cka"] < 1 + 1e-9
    assert figures["similarity"]["head"]["cka"] < figures["similarity"]["block1"]["cka"] < 1
    assert figures["speed"]["train_step"].keys() == {"anil", "maml", "ratio"}
    assert json.loads((maml_run / "analysis.json").read_text()) == figures
    with Image.open(maml_run / "analysis.png") as picture:
        assert picture.size[0] > 500
    text = format_analysis(figures)
    assert all(word in text for word in ("NIL", "frozen: block1, block2", "SVCCA", "train step"))


def test_what_anil_leaves_alone_stays_alike(tree, tmp_path):
    train(recipe_of("model.norm=support", "model.inner_steps=2"), tmp_path / "run", tree)
    figures = analyze(tmp_path / "run", tree, tasks=3)
    assert figures["freezing"] == []
    similarity = figures["similarity"]
    for layer in ("block1", "block2"):
        assert similarity[layer]["svcca"] == pytest.approx(1)
        assert similarity[layer]["cka"] == pytest.approx(1)
    assert similarity["head"]["cka"] < 0.999


def test_blocks_are_named_by_their_layers():
    model = read_recipe(RECIPE).model.backbone.build((28, 28, 1))
    blocks = list_blocks(model)
    assert list(blocks) == ["block1", "block2", "block3", "block4"]
    assert [layer.name for layer in blocks["block2"]] == ["block2_conv", "block2_relu"]

    class Opaque(keras.Model):
        pass

    with pytest.raises(ValueError, match="Functional or Sequential.*Received: Opaque"):
        list_blocks(Opaque())


PAPER = STUDIES["paper"]["omniglot"]
SHORT = Study(
    PAPER.title,
    (
        Stage("maml-1shot", RECIPE, ("algorithm=maml",), 20, 1.0, analysed=True),
        Stage("random-1shot", RECIPE, (), 0, 0.0),
    ),
    PAPER.sections,
)


def test_the_report_says_what_was_run_and_what_was_not(tree, tmp_path, monkeypatch, capsys):
    output = tmp_path / "paper"

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(reproduce, "analyze", interrupted)
        with pytest.raises(KeyboardInterrupt):
            reproduce.reproduce(SHORT, output, tree, None, SMALL)
    trained = (output / "maml-1shot" / "model.keras").stat().st_mtime_ns

    rows = reproduce.reproduce(SHORT, output, tree, None, SMALL)
    assert (output / "maml-1shot" / "model.keras").stat().st_mtime_ns == trained
    found = {row["row"]: row for row in rows if row["section"] == "Accuracy"}
    maml = found["MAML, 1shot"]
    assert re.fullmatch(r"\d+\.\d% \+- \d+\.\d%", maml["ours"])
    assert (maml["paper"], maml["episodes"], maml["training steps"]) == ("93.7 +- 0.7 %", "4", "20")
    assert maml["norm"] == "task (transductive)" and float(maml["minutes"]) >= 0
    assert found["ANIL, 1shot"]["ours"] == "not run"
    labels = {row["row"]: row["ours"] for row in rows}
    assert "%" in labels["random features"] and "%" in labels["layers 1-2"]
    assert labels["layers 1-4"] == "not run"
    assert "/" in labels["MAML, head"] and "times" in labels["a training step"]
    markdown, page = ((output / name).read_text("utf-8") for name in ("report.md", "report.html"))
    for row in rows:
        assert f"| {row['row']} | {row['paper']} | {row['ours']} |" in markdown
    assert page.count("<tr>") == len(rows) + markdown.count("## ")
    assert "data:image/png;base64," in page and 'src="http' not in page
    assert "maml-1shot/analysis.png" in markdown
    assert "Omniglot, 16 x 16 pixels, 20-way, " in markdown

    out, err = capsys.readouterr()
    assert "1/2 maml-1shot: 20 steps" in err and "2 stages, about" in err
    assert "1/2" not in out

    with pytest.raises(ValueError, match="another budget.*another --output"):
        reproduce.reproduce(SHORT, output, tree, None, [*SMALL, "training.queries=1"])


def test_the_report_on_mini_imagenet_has_its_own_published_figures(tmp_path):
    study = STUDIES["paper"]["mini-imagenet"]
    stage = next(stage for stage in study.stages if stage.name == "maml-5shot")
    (tmp_path / stage.name).mkdir()
    write_recipe(plan(stage, 1.0), tmp_path / stage.name / "recipe.toml")
    rows = study.report(tmp_path)
    published = {row["row"]: row["paper"] for row in rows if row["section"] == "Accuracy"}
    assert published["MAML, 1shot"] == "46.9 +- 0.2 %"
    assert published["MAML, first order, 5shot"] == "63.1 +- 0.4 %"
    assert {row["ours"] for row in rows} == {"not run"}
    markdown = (tmp_path / "report.md").read_text("utf-8")
    assert "mini-ImageNet, 5-way, 20 classes never seen" in markdown
    assert "Omniglot" not in markdown and "Compare their order" not in markdown


def test_the_options_are_measured_on_omniglot_alone():
    command = ["reproduce", "options", "--dataset", "mini-imagenet"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2
    assert "The study options is of omniglot. Received: mini-imagenet" in result.stderr


def test_the_options_report_the_difference_to_the_recipe(tmp_path):
    tested = {"ci95": 0.002, "episodes": 600, "norm": "batch"}
    trained = {"steps": 10, "seconds": 60.0}
    for stage, accuracy in (("recipe", 0.96), ("constant-rate", 0.95)):
        (tmp_path / stage).mkdir()
        metrics = {"train": trained, "evaluate": {"accuracy": accuracy, **tested}}
        if stage == "recipe":
            five_steps = {**metrics["evaluate"], "accuracy": 0.97, "inner_steps": 5}
            metrics["evaluations"] = [metrics["evaluate"], five_steps]
        (tmp_path / stage / "metrics.json").write_text(json.dumps(metrics))
    found = {row["row"]: row for row in STUDIES["options"]["omniglot"].report(tmp_path)}
    column = "accuracy (against the recipe)"
    assert found["the recipe `omniglot-20way-1shot`"][column] == "96.0% +- 0.2%"
    assert found["the outer rate stays"][column] == "95.0% +- 0.2% (-1.0)"
    assert found["the outer rate stays"]["changed"] == "`training.schedule=constant`"
    assert found["five inner steps"][column] == "not run"
    assert found["the recipe `omniglot-20way-1shot`, tested with 5"][column].endswith("(+1.0)")


@pytest.mark.parametrize("budget", ["1h", "90m", "1h30m", "0.5h"])
def test_a_budget_counts_everything_and_scales_all_steps_alike(budget):
    hours = {"1h": 1, "90m": 1.5, "1h30m": 1.5, "0.5h": 0.5}[budget]
    recipes = plan_stages(PAPER.stages, budget)
    stages = {stage.name: stage for stage in PAPER.stages}
    assert list(recipes) == list(stages)
    total = sum(stages[name].seconds_of(recipe) for name, recipe in recipes.items())
    assert total == pytest.approx(3600 * hours, rel=0.01)
    steps = {name: recipe.training.steps for name, recipe in recipes.items()}
    assert sum(steps[name] * stages[name].seconds for name in steps) < 0.9 * total
    assert steps.pop("random-1shot") == 0
    shares = [steps[name] / stages[name].steps for name in steps]
    assert shares == pytest.approx([shares[0]] * len(shares), rel=0.02)


def test_a_budget_buys_more_steps_on_smaller_images():
    usual = plan_stages(PAPER.stages, "90m")["anil-1shot"].training.steps
    half = plan_stages(PAPER.stages, "90m", ["data.image_shape=[14,14,1]"])["anil-1shot"]
    assert half.training.steps == pytest.approx(4 * usual, rel=0.2)


def test_what_does_not_fit_is_said_and_left_out():
    recipes = plan_stages(PAPER.stages, "5m")
    text = describe_plan(PAPER.stages, recipes)
    assert "maml-1shot" in recipes and "anil-1shot" not in recipes
    (line,) = (line for line in text.splitlines() if "does not fit" in line.lower())
    assert all((stage.name in line) == (stage.name not in recipes) for stage in PAPER.stages)
    full = describe_plan(PAPER.stages, plan_stages(PAPER.stages, None))
    assert "maml-1shot          6,000 steps" in full and "not fit" not in full


def test_a_budget_that_is_too_short_for_any_stage_is_rejected():
    with pytest.raises(ValueError, match="--budget 0.1m is too short.*takes 4[0-9] s"):
        plan_stages(PAPER.stages, "0.1m")


@pytest.mark.parametrize("budget", ["", "soon", "0h", "10"])
def test_a_budget_that_is_no_time_is_refused(budget, tmp_path):
    with pytest.raises(ValueError, match="such as 90m, 4h"):
        reproduce.reproduce(PAPER, tmp_path, None, budget)


@pytest.mark.parametrize(
    ("study", "dataset"), [(name, dataset) for name in STUDIES for dataset in STUDIES[name]]
)
def test_every_stage_is_a_valid_recipe(study, dataset):
    for stage in STUDIES[study][dataset].stages:
        assert plan(stage, 1.0).training.steps == stage.steps
        if study == "paper":
            assert dataset in stage.recipe
            assert stage.name.endswith(stage.recipe.rpartition("-")[2])


def test_a_maml_run_is_not_exported(maml_run, tmp_path):
    from anil_tf.export.bundle import export_bundle

    with pytest.raises(ValueError, match="this is not an ANIL but MAML"):
        export_bundle(maml_run, tmp_path / "bundle")
    assert type(keras.saving.load_model(maml_run / "model.keras")) is MAML
