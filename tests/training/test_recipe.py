"""Recipes: those that come along, files, overrides, and what is refused."""

import pytest

from anil_tf.training.recipe import TrainingTable, read_recipe, recipe_names, write_recipe


def test_the_promised_recipes_come_along():
    assert set(recipe_names()) >= {
        "glyphs",
        "grocery84",
        "sinusoid",
        "omniglot-20way-long",
        *(f"paper-omniglot-20way-{shots}shot" for shots in (1, 5)),
        *(f"omniglot-{ways}way-{shots}shot" for ways in (5, 20) for shots in (1, 5)),
        *(f"mini-imagenet-5way-{shots}shot" for shots in (1, 5)),
        *(f"paper-mini-imagenet-5way-{shots}shot" for shots in (1, 5)),
        *(f"cifar-fs-5way-{shots}shot" for shots in (1, 5)),
    }


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_valid_and_survives_being_written(name, tmp_path):
    recipe = read_recipe(name)
    assert recipe.name == name
    write_recipe(recipe, tmp_path / "recipe.toml")
    assert read_recipe(tmp_path / "recipe.toml") == recipe


@pytest.mark.parametrize("name", ["omniglot-20way-5shot", "mini-imagenet-5way-1shot", "sinusoid"])
def test_a_recipe_builds_its_model(name):
    from anil_tf.training.recipe.building import build_model

    recipe = read_recipe(name)
    model = build_model(recipe)
    assert model.inner_steps == recipe.model.inner_steps
    assert model.head_init == recipe.model.head_init
    assert float(model.inner_lr) == pytest.approx(recipe.model.inner_lr)


def test_the_outer_rate_falls_along_a_cosine_or_stays():
    from anil_tf.training.recipe.building import build_model

    rates = {}
    for schedule in ("cosine", "constant"):
        optimizer = build_model(
            read_recipe("sinusoid", [f"training.schedule={schedule}", "training.steps=100"])
        ).optimizer
        optimizer.iterations.assign(50)
        rates[schedule] = float(optimizer.learning_rate)
    assert rates["cosine"] == pytest.approx(rates["constant"] / 2, rel=1e-3)


def test_overrides_are_toml_values_or_plain_strings():
    recipe = read_recipe(
        "glyphs", ["training.steps=7", "model.norm=task", "model.backbone.invert=false"]
    )
    assert (recipe.training.steps, recipe.model.norm) == (7, "task")
    assert recipe.model.backbone.invert is False


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.stpes=7", r"training\.stpes"),
        ("training.steps=-1", r"training\.steps"),
        ("training.steps=many", r"training\.steps"),
        ("name.steps=7", "name is not a table"),
        ("training.steps", "KEY=VALUE"),
        ("model.norm=layer", r"model\.norm"),
    ],
)
def test_a_wrong_key_or_value_is_named(override, message):
    with pytest.raises(ValueError, match=message):
        read_recipe("glyphs", [override])


def test_a_file_that_is_no_toml_is_named(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("name = ")
    with pytest.raises(ValueError, match=r"mine\.toml is not TOML"):
        read_recipe(path)


def test_an_unknown_recipe_is_answered_with_those_there_are():
    with pytest.raises(FileNotFoundError, match=r"neither a recipe file nor one of .*glyphs"):
        read_recipe("glyph")


def test_a_backbone_refuses_arguments_that_it_does_not_take():
    with pytest.raises(ValueError, match="'mlp' takes no invert"):
        read_recipe("sinusoid", ["model.backbone.invert=true"]).model.backbone.build((1,))
    with pytest.raises(ValueError, match=r"must be one of \['conv1d'.* Received: 'conv5'"):
        read_recipe("sinusoid", ["model.backbone.name=conv5"]).model.backbone.build((1,))


def test_a_per_class_head_cannot_be_evaluated_on_more_ways_than_trained():
    with pytest.raises(ValueError, match=r"training\.ways=20, evaluation\.ways=21"):
        read_recipe("glyphs", ["model.head_init=per_class", "evaluation.ways=21"])


@pytest.mark.parametrize("algorithm", ["anil", "maml", "boil", "nil", "multitask", "multiclass"])
def test_a_recipe_says_what_adapts_as_its_model_does(algorithm):
    from anil_tf.training.recipe.building import ALGORITHMS

    settings = [f"algorithm={algorithm}", "model.norm=task", "model.head_init=per_class"]
    recipe, kind = read_recipe("omniglot-20way-1shot", settings), ALGORITHMS[algorithm]
    assert (recipe.adapts_head, recipe.adapts_body) == (kind.adapts_head, kind.adapts_body)


@pytest.mark.parametrize(("steps", "every"), [(9000, 500), (2, 500), (1000, 300), (7, 2)])
def test_epochs_cover_the_steps(steps, every):
    training = TrainingTable(steps=steps, checkpoint_every=every)
    assert training.steps_per_epoch <= every
    covered = training.epochs * training.steps_per_epoch
    assert steps <= covered < steps + training.epochs
