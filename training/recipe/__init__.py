"""Recipes: everything that determines a run."""

from anil_tf.training.recipe.reading import read_recipe, recipe_keys, recipe_names, write_recipe
from anil_tf.training.recipe.tables import (
    BackboneTable,
    DataTable,
    EvaluationTable,
    ModelTable,
    Recipe,
    TrainingTable,
)

__all__ = [
    "BackboneTable",
    "DataTable",
    "EvaluationTable",
    "ModelTable",
    "Recipe",
    "TrainingTable",
    "read_recipe",
    "recipe_keys",
    "recipe_names",
    "write_recipe",
]
