"""The compiled model of a recipe."""

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import keras

from anil_tf.adaptive import AdaptiveModel
from anil_tf.episodic import EpisodicModel
from anil_tf.maml import BOIL, MAML
from anil_tf.metrics import EpisodeAccuracy, EpisodeMeanSquaredError
from anil_tf.model import ANIL
from anil_tf.nil import NIL, Pretrained
from anil_tf.training.recipe.tables import Precision, Recipe
from anil_tf.views import Views, with_views

ALGORITHMS: dict[str, type[EpisodicModel]] = {
    "anil": ANIL,
    "maml": MAML,
    "boil": BOIL,
    "nil": NIL,
    "multitask": Pretrained,
    "multiclass": Pretrained,
}
POLICIES: dict[Precision, str] = {
    "float32": "float32",
    "bfloat16": "mixed_bfloat16",
    "float16": "mixed_float16",
}


def build_model(
    recipe: Recipe, classes: int | None = None, views: Literal["single"] | Views = "single"
) -> EpisodicModel:
    """The compiled model of a recipe, initialised from its seed, as it is trained.

    Args:
        recipe: Recipe of the model.
        classes: Number of training classes, turned ones counted; None for a regression. Only a
            model that classifies images among all of them needs it.
        views: Views of each image, which the recipe has for the finished model.
    """
    keras.utils.set_random_seed(recipe.seed)
    training = recipe.training
    options = recipe.model.model_dump(exclude={"backbone", "views", "image_weight"})
    ways = 1 if recipe.data.is_regression else training.ways
    if recipe.algorithm == "multiclass":
        ways = classes or ways
    if recipe.model.image_weight and classes:
        options |= {"image_classes": classes, "image_weight": recipe.model.image_weight}
    kind = ALGORITHMS[recipe.algorithm]
    if not issubclass(kind, AdaptiveModel):  # it has no inner loop to set
        options = {name: options[name] for name in ("loss", "norm") if name in options}
    with _computing_in(training.precision):
        backbone = recipe.model.backbone.build(recipe.data.image_shape)
        if views != "single":
            length = recipe.model.backbone.length or 1.0
            backbone = with_views(backbone, views, length if recipe.model.backbone.cosine else None)
        model = kind(backbone, ways=ways, **options)
    rate: Any = training.learning_rate
    if training.schedule == "cosine":
        steps = max(1, training.epochs * training.steps_per_epoch)
        rate = keras.optimizers.schedules.CosineDecay(rate, steps)
    metric = EpisodeMeanSquaredError() if recipe.data.is_regression else EpisodeAccuracy()
    model.compile(
        keras.optimizers.Adam(rate),
        metrics=[metric],
        steps_per_execution=training.steps_per_execution,
    )
    return model


def finish_model(recipe: Recipe, model: EpisodicModel, classes: int | None = None) -> EpisodicModel:
    """The trained model in float32, whatever the precision of its training, and with its views.

    What is evaluated is then what is exported. The weights are float32 in training too.

    Args:
        recipe: Recipe of the model.
        model: Trained model of that recipe.
        classes: As in `build_model`.

    Returns:
        A model with the same weights and the same state of the optimizer; `model` itself where it
        was trained in float32 and sees one view.
    """
    views = recipe.model.views
    if recipe.training.precision == "float32" and views == "single":
        return model
    training = recipe.training.model_copy(update={"precision": "float32"})
    finished = build_model(recipe.model_copy(update={"training": training}), classes, views)
    finished.set_weights(model.get_weights())
    finished.optimizer.build(finished.trainable_variables)
    # In float16 the optimizer is inside one that scales the loss.
    optimizer: Any = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    for ours, theirs in zip(finished.optimizer.variables, optimizer.variables, strict=True):
        ours.assign(theirs)
    return finished


@contextlib.contextmanager
def _computing_in(precision: Precision) -> Iterator[None]:
    """Context manager in which layers are made for a precision; their weights are float32."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(POLICIES[precision])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)
