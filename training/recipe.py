"""Recipes: everything that determines a run, as TOML checked by pydantic."""

import inspect
import math
import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import tomli_w
from pydantic import Field

from anil_tf.datasets.images import ClassImages
from anil_tf.datasets.load import load_folder, load_tfds
from anil_tf.datasets.pictures import Shape
from anil_tf.datasets.splits import SplitRule
from anil_tf.export.signatures import LIMITS
from anil_tf.support.files import replacing
from anil_tf.support.hints import did_you_mean
from anil_tf.support.untrusted import read_toml

Count = Annotated[int, Field(ge=1, le=2**31)]
# `name`, `name/config` or either with `:version`. TFDS would take `namespace:name` too, and run the
# code that it downloads from there.
TfdsName = Annotated[
    str, Field(pattern=r"^[a-z][a-z0-9_]*(/[A-Za-z0-9_.\-]+)?(:\d+\.\d+\.\d+)?$", max_length=200)
]


class _Table(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Data(_Table):
    """Where the classes come from.

    Attributes:
        source: A TFDS data set, a folder tree, or sine waves to regress.
        name: The TFDS data set.
        subsets: TFDS splits to pool before splitting their classes; TFDS's own splits otherwise.
        image_shape: Height, width, channels that images are brought to.
        class_lists: Folder of `train.csv`, `val.csv`, `test.csv`; a random split otherwise.
        split_sizes: Shares of train, val and test in a random split of the classes.
        split_seed: Of that split.
        rotations: Turn classes by multiples of 90 degrees into new ones.
    """

    source: Literal["tfds", "folder", "sinusoid"]
    name: TfdsName | None = None
    subsets: tuple[str, ...] | None = None
    image_shape: tuple[Annotated[int, Field(ge=1, le=2**14)], ...]
    class_lists: Path | None = None
    split_sizes: tuple[float, float, float] = (64, 16, 20)
    split_seed: int = 0
    rotations: bool = False

    def load(self, wanted: Sequence[str], data_dir: Path | None = None) -> dict[str, ClassImages]:
        """The classes of the wanted splits, of `train`, `val` and `test`."""
        rule = SplitRule(self.class_lists, self.split_sizes, self.split_seed)
        if self.source == "folder":
            if data_dir is None:
                raise ValueError(
                    "This recipe reads a folder of classes. Say where it is with --data-dir"
                )
            return load_folder(data_dir, wanted, self._shape, rule)
        if self.name is None:
            raise ValueError("data.source 'tfds' needs data.name, the name of a TFDS data set")
        return load_tfds(self.name, wanted, self._shape, rule, data_dir, self.subsets)

    @property
    def _shape(self) -> Shape:
        if len(self.image_shape) != 3 or self.image_shape[2] not in (1, 3):
            raise ValueError(
                "data.image_shape is height, width and 1 or 3 channels. "
                f"Received: {list(self.image_shape)}"
            )
        height, width, channels = self.image_shape
        return height, width, channels


class Backbone(_Table):
    """Which backbone, and the arguments it is built with; those not given keep its defaults.

    Attributes:
        name: Of `anil_tf.backbones`, or `keras.applications.NAME`, which takes `weights`,
            `trainable` and `cosine` alone.
        weights: A file of weights, `.weights.h5` or `.keras`; random weights without.
        trainable: Whether the outer loop trains it.
    """

    name: str
    weights: Path | None = None
    trainable: bool | None = None
    filters: Count | None = None
    blocks: Count | None = None
    pooling: bool | None = None
    invert: bool | None = None
    cosine: bool | None = None
    length: Annotated[float, Field(gt=0)] | None = None
    units: Count | None = None
    layers: Count | None = None

    def build(self, input_shape: tuple[int, ...]) -> Any:
        """The Keras model.

        Raises:
            ValueError: There is no backbone of that name, or it takes no such argument.
        """
        from anil_tf import backbones  # imports TensorFlow

        function = backbones.find(self.name)
        options = self.model_dump(exclude={"name"}, exclude_none=True)
        known = inspect.signature(function).parameters
        if unknown := options.keys() - known:
            raise ValueError(
                f"Backbone {self.name!r} takes no {', '.join(sorted(unknown))}. "
                f"It takes {', '.join(list(known)[1:])}"
            )
        return function(tuple(input_shape), **options)


class Model(_Table):
    """Arguments of `anil_tf.ANIL` but for the ways, which are those of the training episodes."""

    backbone: Backbone
    head_init: Literal["per_class", "shared"] = "per_class"
    inner_steps: Annotated[int, Field(ge=0, le=LIMITS["steps"][1])] = 5
    inner_lr: Annotated[float, Field(gt=0)] = 0.1
    learn_inner_lr: bool | Literal["per_step"] = False
    first_order: bool = False
    inner_loop: Literal["auto", "tape", "gram"] = "auto"
    loss: Literal["cross_entropy", "mse"] = "cross_entropy"
    norm: Literal["batch", "support", "task"] = "batch"


class Training(_Table):
    """The outer loop, by Adam.

    Attributes:
        ways: Classes of a training episode. With a shared head they may be more than those of
            evaluation: harder tasks teach faster.
        shots: Support images a class.
        queries: Query images a class.
        tasks: Episodes of a meta-batch.
        distortion: Of each training image, see `anil_tf.EpisodeSampler`; none by default.
        steps: Outer steps in all; none for random features.
        learning_rate: The initial outer rate.
        schedule: Whether it falls to zero along a cosine (Loshchilov & Hutter 2017) or stays.
        checkpoint_every: Steps between checkpoints and validations, adjusted so that they divide
            the training evenly.
        validation_episodes: Episodes of each validation, of the training's ways and shots.
        deterministic: Use no kernel whose result depends on the order in which threads finish: two
            runs then agree to the last bit, one that was interrupted too. Somewhat slower.
    """

    ways: Count = 5
    shots: Count = 1
    queries: Count = 5
    tasks: Count = 4
    distortion: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    steps: Annotated[int, Field(ge=0, le=2**40)] = 10_000
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    checkpoint_every: Count = 500
    validation_episodes: Count = 100
    deterministic: bool = False

    @property
    def epochs(self) -> int:
        """How often the run is checkpointed and validated."""
        return math.ceil(self.steps / self.checkpoint_every)

    @property
    def steps_per_epoch(self) -> int:
        """Steps between two checkpoints."""
        return math.ceil(self.steps / max(1, self.epochs))


class Evaluation(_Table):
    """The episodes that `anil evaluate` measures by default."""

    ways: Count = 5
    shots: Count = 1
    queries: Count = 15
    episodes: Annotated[int, Field(ge=2)] = 600
    inner_steps: Annotated[int, Field(ge=0)] | None = None


class Recipe(_Table):
    """A whole run.

    Attributes:
        algorithm: What adapts. `anil`: the head. `maml`: head and body. `boil`: the body. `nil`:
            nothing, trained through cosines to the support set. `multitask` and `multiclass`:
            nothing, trained as a classifier of the queries, by the labels of each task or by the
            classes of the training set.
    """

    name: str
    algorithm: Literal["anil", "maml", "boil", "nil", "multitask", "multiclass"] = "anil"
    seed: int = 0
    data: Data
    model: Model
    training: Training = Training()
    evaluation: Evaluation = Evaluation()

    @pydantic.model_validator(mode="after")
    def _algorithm_fits(self) -> "Recipe":
        if self.algorithm in ("maml", "boil") and self.model.norm == "batch":
            raise ValueError(
                f"algorithm = '{self.algorithm}' adapts the body, and no adapted body has moving "
                "averages of its own: use model.norm=support (inductive) or model.norm=task "
                "(transductive, as in the paper). Received: model.norm=batch"
            )
        fixed_head = self.algorithm in ("multitask", "multiclass", "boil")
        if fixed_head and self.model.head_init == "shared" and self.data.source != "sinusoid":
            raise ValueError(
                f"algorithm = '{self.algorithm}' needs a head that tells classes apart: use "
                "model.head_init=per_class. Received: model.head_init=shared"
            )
        if self.data.source == "sinusoid" and self.algorithm not in ("anil", "maml", "boil"):
            raise ValueError(
                "sine waves are regressed, by anil, maml or boil. "
                f"Received: algorithm={self.algorithm}"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _ways_fit(self) -> "Recipe":
        adapts = self.algorithm in ("anil", "maml", "boil")
        fixed = adapts and self.model.head_init == "per_class"
        if fixed and self.evaluation.ways > self.training.ways:
            raise ValueError(
                "a per_class head is evaluated on at most the ways it was trained with. Received: "
                f"training.ways={self.training.ways}, evaluation.ways={self.evaluation.ways}"
            )
        return self


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    files = resources.files("anil_tf.training").joinpath("recipes").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def read_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe by name or from a TOML file, and changes some of its keys.

    Args:
        source: A name among `recipe_names()`, or the path of a file.
        overrides: `KEY=VALUE` each, such as `training.steps=100`; the value is TOML, or a plain
            string where it is no TOML.

    Raises:
        FileNotFoundError: There is no such recipe.
        ValueError: It is not TOML, or a key or value is not a recipe's.
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


def recipe_keys(table: type[_Table] = Recipe, prefix: str = "") -> list[str]:
    """Every key of a recipe, with its tables: `seed`, `training.steps` and so on."""
    keys = []
    for name, field in table.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, _Table):
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
