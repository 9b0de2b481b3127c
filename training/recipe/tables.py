"""What a recipe is: the tables and keys that determine a run, checked by pydantic."""

import inspect
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from anil_tf.datasets.images import ClassImages
from anil_tf.datasets.load import load_folder, load_tfds
from anil_tf.datasets.pictures import Shape
from anil_tf.datasets.splits import SplitRule
from anil_tf.export.signatures import MAX_STEPS

Precision = Literal["float32", "bfloat16", "float16"]
Views = Literal["single", "mirrored", "moved"]
Count = Annotated[int, Field(ge=1, le=2**31)]
# `name`, `name/config` or either with `:version`. TFDS would take `namespace:name` too, and run the
# code that it downloads from there.
TfdsName = Annotated[
    str, Field(pattern=r"^[a-z][a-z0-9_]*(/[A-Za-z0-9_.\-]+)?(:\d+\.\d+\.\d+)?$", max_length=200)
]


class Table(pydantic.BaseModel):
    """A table of a recipe: its keys and their types, without any others."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataTable(Table):
    """Where the classes come from.

    Attributes:
        source: A TFDS data set, a folder tree of pictures, one of windows (`.npy`, `.csv`, `.wav`),
            or sine waves to regress.
        name: The TFDS data set.
        subsets: TFDS splits to pool before splitting their classes; TFDS's own splits otherwise.
        image_shape: Height, width and channels that images are resized to; moments and channels
            of windows.
        class_lists: Folder of `train.csv`, `val.csv`, `test.csv`; a random split otherwise.
        split_sizes: Shares of train, val and test in a random split of the classes.
        split_seed: Seed for that random split.
        rotations: Whether to add classes, each turned by 90, 180 and 270 degrees.
    """

    source: Literal["tfds", "folder", "windows", "sinusoid"]
    name: TfdsName | None = None
    subsets: tuple[str, ...] | None = None
    image_shape: tuple[Annotated[int, Field(ge=1, le=2**14)], ...]
    class_lists: Path | None = None
    split_sizes: tuple[float, float, float] = (64, 16, 20)
    split_seed: int = 0
    rotations: bool = False

    @property
    def is_regression(self) -> bool:
        """Whether a task is a function to fit, without classes."""
        return self.source == "sinusoid"

    def load_split(self, split: str, data_dir: Path | None = None) -> ClassImages | None:
        """The classes of one split; None for a regression, which has none."""
        return None if self.is_regression else self.load((split,), data_dir)[split]

    def load(self, wanted: Sequence[str], data_dir: Path | None = None) -> dict[str, ClassImages]:
        """The classes of the wanted splits, of `train`, `val` and `test`."""
        rule = SplitRule(self.class_lists, self.split_sizes, self.split_seed)
        if self.source in ("folder", "windows"):
            if data_dir is None:
                raise ValueError(
                    "This recipe reads a folder of classes. Say where it is with --data-dir"
                )
            return load_folder(data_dir, wanted, self._checked_shape(), rule)
        if self.name is None:
            raise ValueError("data.source 'tfds' needs data.name, the name of a TFDS data set")
        return load_tfds(self.name, wanted, self._picture_shape(), rule, data_dir, self.subsets)

    def _checked_shape(self) -> tuple[int, ...]:
        if self.source == "windows":
            if len(self.image_shape) != 2:
                raise ValueError(
                    "data.image_shape of windows is moments and channels, such as [128, 6]. "
                    f"Received: {list(self.image_shape)}"
                )
            return self.image_shape
        return self._picture_shape()

    def _picture_shape(self) -> Shape:
        if len(self.image_shape) != 3 or self.image_shape[2] not in (1, 3):
            raise ValueError(
                "data.image_shape is height, width and 1 or 3 channels. "
                f"Received: {list(self.image_shape)}"
            )
        height, width, channels = self.image_shape
        return height, width, channels


class BackboneTable(Table):
    """A backbone and its arguments. An argument that is not given keeps the backbone's default.

    Attributes:
        name: A name from `anil_tf.backbones`, or `keras.applications.NAME`, which takes only
            `weights`, `trainable` and `cosine`.
        weights: `"imagenet"`, or a file of weights, `.weights.h5` or `.keras`.
        trainable: Whether the outer loop trains the backbone.
    """

    name: str
    weights: Literal["imagenet"] | Path | None = None
    trainable: bool | None = None
    filters: Count | None = None
    blocks: Count | None = None
    pooling: bool | None = None
    invert: bool | None = None
    cosine: bool | None = None
    length: Annotated[float, Field(gt=0)] | None = None
    units: Count | None = None
    layers: Count | None = None
    resolution: Count | None = None
    views: Count | None = None

    def build(self, input_shape: tuple[int, ...]) -> Any:
        """The Keras model.

        Raises:
            FileNotFoundError: There is no file of weights.
            ValueError: There is no backbone of that name, or it does not take these arguments.
        """
        try:
            return self._build(tuple(input_shape))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"model.backbone: {error}") from error
        except ValueError as error:
            raise ValueError(f"model.backbone: {error}") from error

    def _build(self, input_shape: tuple[int, ...]) -> Any:
        from anil_tf import backbones  # imports TensorFlow

        function = backbones.find(self.name)
        options = self.model_dump(exclude={"name"}, exclude_none=True)
        known = inspect.signature(function).parameters
        if unknown := options.keys() - known:
            raise ValueError(
                f"{self.name!r} takes no {', '.join(sorted(unknown))}. "
                f"It takes {', '.join(list(known)[1:])}"
            )
        return function(input_shape, **options)


class ModelTable(Table):
    """Arguments of `anil_tf.ANIL`, except what the training episodes determine.

    Attributes:
        views: Views of each image whose features the finished model averages: `single` for none
            but the image, `mirrored` for photographs, `moved` for drawings; see
            `anil_tf.with_views`. Training sees single views.
        image_weight: Weight of a second loss in training, the classification of each image among
            all training classes; 0 for none. See `image_classes` of `anil_tf.ANIL`.
    """

    backbone: BackboneTable
    head_init: Literal["per_class", "shared"] = "per_class"
    inner_steps: Annotated[int, Field(ge=0, le=MAX_STEPS)] = 5
    inner_lr: Annotated[float, Field(gt=0)] = 0.1
    learn_inner_lr: bool | Literal["per_step"] = False
    first_order: bool = False
    inner_loop: Literal["auto", "tape", "gram"] = "auto"
    loss: Literal["cross_entropy", "mse"] = "cross_entropy"
    norm: Literal["batch", "frozen", "support", "task"] = "batch"
    views: Views = "single"
    image_weight: Annotated[float, Field(ge=0)] = 0.0


class TrainingTable(Table):
    """The outer loop, which uses Adam.

    Attributes:
        ways: Classes per training episode. A shared head may be trained on more ways than it is
            evaluated on: harder tasks teach faster.
        shots: Support images per class.
        queries: Query images per class.
        tasks: Episodes per meta-batch.
        distortion: Strength of the random distortion of training images, 0 to 0.5. See
            `anil_tf.EpisodeSampler`.
        flips: Whether to mirror a random half of the training images.
        recoloring: Strength of the random change of brightness, contrast and saturation, 0 to 1.
        steps: Number of outer steps; 0 keeps the initial weights.
        start_from: Folder of a finished run with the same backbone, whose weights are the initial
            weights of the backbone; random ones by default. The images of that run may be smaller:
            training on small ones first takes a fraction of the time.
        learning_rate: Initial learning rate of the outer loop.
        schedule: `cosine` lets the rate fall to zero (Loshchilov & Hutter 2017), `constant` keeps
            it.
        checkpoint_every: Steps between checkpoints and validations, adjusted so that they divide
            the training evenly.
        patience: Number of validations without a smaller loss that ends training early; the weights
            of the best validation are kept. By default training ends with its last step, and its
            last weights are kept.
        validation_episodes: Episodes per validation, with the ways and shots of training.
        deterministic: Whether to use only kernels whose result does not depend on the order in
            which threads finish. Two runs then agree to the last bit, even if one was interrupted.
            Somewhat slower.
        precision: What the backbone computes in during training. Weights, statistics of batch norm,
            adaptation and the trained model are float32. `bfloat16` is for processors with
            instructions for it (GPUs, CPUs with AMX), `float16` for GPUs: it scales the loss.
        draw_on: Where episodes are drawn: on the `host`, or on the `device` that trains, from
            images in its memory. They are the same. `auto` is a GPU if there is one and they fit.
        steps_per_execution: Steps in one computation, between which training cannot be stopped;
            `auto` is 50 on a GPU and 1 on a CPU.
    """

    ways: Count = 5
    shots: Count = 1
    queries: Count = 5
    tasks: Count = 4
    distortion: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    flips: bool = False
    recoloring: Annotated[float, Field(ge=0, le=1)] = 0.0
    steps: Annotated[int, Field(ge=0, le=2**40)] = 10_000
    start_from: Path | None = None
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    checkpoint_every: Count = 500
    patience: Count | None = None
    validation_episodes: Count = 100
    deterministic: bool = False
    precision: Precision = "float32"
    draw_on: Literal["auto", "host", "device"] = "auto"
    steps_per_execution: Count | Literal["auto"] = "auto"

    @property
    def epochs(self) -> int:
        """Number of checkpoints and validations."""
        return math.ceil(self.steps / self.checkpoint_every)

    @property
    def steps_per_epoch(self) -> int:
        """Steps between two checkpoints."""
        return math.ceil(self.steps / max(1, self.epochs))


class EvaluationTable(Table):
    """The recipe's protocol: the episodes that `anil evaluate` measures by default.

    Attributes:
        inner_steps: Inner steps of the evaluation, and of an exported bundle; those of training by
            default.
        inner_lr: Inner rate of the finished model, for these steps; that of training, learned or
            not, by default.
    """

    ways: Count = 5
    shots: Count = 1
    queries: Count = 15
    episodes: Annotated[int, Field(ge=2)] = 600
    inner_steps: Annotated[int, Field(ge=0)] | None = None
    inner_lr: Annotated[float, Field(gt=0)] | None = None


class Recipe(Table):
    """All that determines a run.

    Attributes:
        algorithm: What adapts to a task. `anil`: the head. `maml`: head and body. `boil`: the
            body. `nil`: nothing, trained through cosines to the support set. `multitask` and
            `multiclass`: nothing, trained as a classifier of the queries, by the labels of each
            task or by the classes of the training set.
    """

    name: str
    algorithm: Literal["anil", "maml", "boil", "nil", "multitask", "multiclass"] = "anil"
    seed: int = 0
    data: DataTable
    model: ModelTable
    training: TrainingTable = TrainingTable()
    evaluation: EvaluationTable = EvaluationTable()

    @property
    def images_per_step(self) -> int:
        """Number of images, or of points of a regression, in one meta-batch."""
        training = self.training
        ways = 1 if self.data.is_regression else training.ways
        return training.tasks * ways * (training.shots + training.queries)

    @property
    def adapts_head(self) -> bool:
        """Whether the inner loop adapts the head; `anil_tf`'s classes say the same of models."""
        return self.algorithm in ("anil", "maml")

    @property
    def adapts_body(self) -> bool:
        """Whether the inner loop adapts the backbone."""
        return self.algorithm in ("maml", "boil")

    @property
    def adapts(self) -> bool:
        """Whether there is an inner loop."""
        return self.adapts_head or self.adapts_body

    @pydantic.model_validator(mode="after")
    def _algorithm_fits(self) -> "Recipe":
        if self.adapts_body and self.model.norm == "batch":
            raise ValueError(
                f"algorithm = '{self.algorithm}' adapts the body, and no adapted body has moving "
                "averages of its own: use model.norm=support (inductive) or model.norm=task "
                "(transductive, as in the paper). Received: model.norm=batch"
            )
        fixed_head = not self.adapts_head and self.algorithm != "nil"  # nil trains without a head
        if fixed_head and self.model.head_init == "shared" and not self.data.is_regression:
            raise ValueError(
                f"algorithm = '{self.algorithm}' needs a head with a column for each class: use "
                "model.head_init=per_class. Received: model.head_init=shared"
            )
        if self.data.is_regression and not self.adapts:
            raise ValueError(
                "sine waves are regressed by anil, maml or boil. "
                f"Received: algorithm={self.algorithm}"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _image_weight_fits(self) -> "Recipe":
        if self.model.image_weight and (self.algorithm != "anil" or self.data.is_regression):
            raise ValueError(
                "model.image_weight is for algorithm = 'anil' on images: it classifies them among "
                f"the training classes. Received: algorithm={self.algorithm}, "
                f"data.source={self.data.source}"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _views_fit(self) -> "Recipe":
        if self.model.views != "single" and (
            self.data.is_regression
            or len(self.data.image_shape) != 3
            or self.adapts_body
            or self.model.norm not in ("batch", "frozen")
        ):
            raise ValueError(
                "several views are for pictures, a body that does not adapt, and model.norm=batch "
                "or frozen: otherwise use model.views=single. "
                f"Received: model.views={self.model.views}, algorithm={self.algorithm}, "
                f"model.norm={self.model.norm}, data.image_shape={list(self.data.image_shape)}"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _inner_lr_fits(self) -> "Recipe":
        per_step = self.model.learn_inner_lr == "per_step"
        if self.evaluation.inner_lr is not None and (per_step or not self.adapts):
            raise ValueError(
                "evaluation.inner_lr is for an inner loop with one rate for all steps. Received: "
                f"algorithm={self.algorithm}, model.learn_inner_lr={self.model.learn_inner_lr}"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _ways_fit(self) -> "Recipe":
        per_class = self.adapts and self.model.head_init == "per_class"
        if per_class and self.evaluation.ways > self.training.ways:
            raise ValueError(
                "a per_class head is evaluated on at most the ways it was trained with. Received: "
                f"training.ways={self.training.ways}, evaluation.ways={self.evaluation.ways}"
            )
        return self
