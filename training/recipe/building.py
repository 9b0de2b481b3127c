"""The compiled model of a recipe."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import keras

from anil_tf.adaptive import AdaptiveModel
from anil_tf.episodic import EpisodicModel
from anil_tf.maml import BOIL, MAML
from anil_tf.metrics import EpisodeAccuracy, EpisodeMeanSquaredError
from anil_tf.model import ANIL
from anil_tf.nil import NIL, Pretrained
from anil_tf.training.recipe.tables import Precision, Recipe, Views
from anil_tf.views import with_views

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
    recipe: Recipe, classes: int | None = None, views: Views = "single"
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
    """The trained model as it is evaluated and exported.

    It is in float32, whatever the precision of its training: its weights were float32 already. It
    has the recipe's views, and the inner steps and rate of its evaluation where it states a rate.

    Args:
        recipe: Recipe of the model.
        model: Trained model of that recipe.
        classes: As in `build_model`.

    Returns:
        A model with the same weights and the same state of the optimizer; `model` itself where all
        of this was so in training.
    """
    views, rate = recipe.model.views, recipe.evaluation.inner_lr
    if recipe.training.precision == "float32" and views == "single" and rate is None:
        return model
    settings = recipe.model
    if rate is not None and recipe.evaluation.inner_steps is not None:
        settings = settings.model_copy(update={"inner_steps": recipe.evaluation.inner_steps})
    training = recipe.training.model_copy(update={"precision": "float32"})
    changed = recipe.model_copy(update={"model": settings, "training": training})
    finished: Any = build_model(changed, classes, views)
    finished.set_weights(model.get_weights())
    if rate is not None:
        finished.log_inner_lr.assign(math.log(rate))
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
