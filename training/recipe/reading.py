"""How a recipe is read from TOML, changed by `KEY=VALUE`, and written."""

import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import tomli_w

from anil_tf.support.files import replacing
from anil_tf.support.hints import did_you_mean
from anil_tf.support.untrusted import read_toml
from anil_tf.training.recipe.tables import Recipe, Table


def recipe_names() -> list[str]:
    """The names of the recipes that ship with the package."""
    files = resources.files("anil_tf.training").joinpath("recipes").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def read_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe by name or from a TOML file, and changes some of its keys.

    Args:
        source: A name among `recipe_names()`, or the path of a TOML file.
        overrides: Changes such as `training.steps=100`. A value is read as TOML, or as a plain
            string where it is not TOML.

    Raises:
        FileNotFoundError: There is no such recipe.
        ValueError: The file is not TOML, or a key or value does not belong to a recipe.
    """
    if str(source) in recipe_names():
        recipes = resources.files("anil_tf.training").joinpath("recipes")
        tables = tomllib.loads(recipes.joinpath(f"{source}.toml").read_text(encoding="utf-8"))
    elif Path(source).is_file():
        tables = read_toml(Path(source))
    else:
        raise FileNotFoundError(
            f"{source} is neither a recipe file nor one of {', '.join(recipe_names())}."
            f"{did_you_mean(str(source), recipe_names())}"
        )
    for override in overrides:
        _apply(tables, override)
    _refuse_unknown_keys(tables)
    return Recipe.model_validate(tables)


def recipe_keys(table: type[Table] = Recipe, prefix: str = "") -> list[str]:
    """Every key of a recipe, with its tables: `seed`, `training.steps` and so on."""
    keys = []
    for name, field in table.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Table):
            keys += recipe_keys(kind, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def _refuse_unknown_keys(tables: dict[str, Any], prefix: str = "") -> None:
    known = recipe_keys()
    for name, value in tables.items():
        key = prefix + name
        if isinstance(value, dict):
            _refuse_unknown_keys(value, f"{key}.")
        elif below := [name for name in known if name.startswith(f"{key}.")]:
            raise ValueError(
                f"{key} is a table of a recipe. Give one of its keys: {', '.join(below)}. "
                f"Received: {key}={value}"
            )
        elif key not in known:
            hint = did_you_mean(key, known) or f" There are: {', '.join(known)}."
            raise ValueError(f"{key} is not a key of recipes.{hint} Received: {key}={value}")


def _apply(tables: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ValueError(
            f"Overrides are KEY=VALUE, such as training.steps=100. Received: {override}"
        )
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *path, last = key.strip().split(".")
    table = tables
    for name in path:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise ValueError(f"{key} is not a recipe key: {name} is not a table")
    table[last] = value


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Writes the resolved recipe as TOML."""
    text = tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True))
    with replacing(path) as partial:
        partial.write_text(text, "utf-8")
