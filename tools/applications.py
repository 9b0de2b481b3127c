"""Tries which `keras.applications` can be exported to which format.

    python -m tools.applications MobileNetV2 VGG16
    python -m tools.applications                     all of them, two hours and 30 GB of memory

Each is made at its smallest size with random weights, exported, run, and compared with Keras. This
replaces its row in docs/results/applications.json, which the tests read, and in
docs/howto/layers.md.
"""

import argparse
import json
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from anil_tf import applications
from anil_tf.export.verify.cases import measure
from anil_tf.support.keras_private import flatten_layers
from tests.export.writers.formats import RUNS, prepare

SIZES = (32, 71, 75)  # the smallest images that an application may take
IMAGES = 16
DOCS = Path(__file__).resolve().parents[1] / "docs"
TABLE, PAGE = DOCS / "results" / "applications.json", DOCS / "howto" / "layers.md"
BLOCK = re.compile(r"(<!-- applications -->\n).*?(\n<!-- end -->)", re.DOTALL)
HEADER = (
    "| application | images | weights | SavedModel | ONNX | LiteRT | largest difference | bound |"
)
WITHOUT_OPERATIONS = {"Functional", "InputLayer", "Sequential"}


class Row(NamedTuple):
    """What became of an application.

    `kinds` are those of its layers, see `kinds_of`. `formats` has the largest difference from
    Keras, or the reason of a refusal, by format. `bound` is the bound on the difference. Both are
    relative to the largest feature.
    """

    name: str
    size: int
    parameters: int
    kinds: list[str]
    formats: dict[str, float | str]
    bound: float
    seconds: float

    @property
    def agrees(self) -> bool:
        """Whether every format was exported and is within the bound."""
        return all(self._within(value) for value in self.formats.values())

    def _within(self, value: float | str) -> bool:
        return not isinstance(value, str) and value <= self.bound

    def __str__(self) -> str:
        """A row of a Markdown table."""
        values = self.formats.values()
        cells = [
            f"`{self.name}`",
            f"{self.size} x {self.size}",
            f"{self.parameters / 1e6:.1f} million",
            *("works" if self._within(value) else str(value) for value in values),
            f"{max(value for value in values if not isinstance(value, str)):.1e}",
            f"{self.bound:.1e}",
        ]
        return f"| {' | '.join(cells)} |"


def try_application(name: str) -> Row:
    """Exports an application of `keras.applications` to every format, and runs it there."""
    start = time.monotonic()
    backbone = make_backbone(name)
    enliven(backbone)
    images = make_images(backbone.input_shape[1])
    graphs, bound = prepare(backbone, images)
    expected = {"features": backbone(images, training=False).numpy()}
    formats: dict[str, float | str] = {}
    for format_, run in RUNS.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                formats[format_] = measure(
                    {"features": run(graphs, images, Path(folder))}, (expected,)
                )
            except ValueError as error:
                formats[format_] = str(error)
    seconds = round(time.monotonic() - start, 1)
    size, parameters = backbone.input_shape[1], backbone.count_params()
    return Row(name, size, parameters, kinds_of(backbone), formats, bound, seconds)


def kinds_of(model: keras.Model) -> list[str]:
    """The kinds of its layers, such as `Conv2D same strided`, and its activations."""
    layers = flatten_layers(model)
    activations = {_name(layer.activation) for layer in layers if hasattr(layer, "activation")}
    return sorted({_kind(layer) for layer in layers} - WITHOUT_OPERATIONS | activations)


def _name(activation: Callable) -> str:
    return f"activation {activation.__name__}"


def _kind(layer: keras.layers.Layer) -> str:
    kind = type(layer).__name__
    parts = {
        "same": getattr(layer, "padding", "") == "same",
        "strided": "Conv" in kind and np.max(layer.strides) > 1,
        "dilated": "Conv" in kind and np.max(layer.dilation_rate) > 1,
        "grouped": getattr(layer, "groups", 1) > 1 and "Conv" in kind,
        "6": getattr(layer, "max_value", None) == 6,
    }
    return " ".join([kind, *(part for part, holds in parts.items() if holds)])


def make_backbone(name: str) -> keras.Model:
    """The application at its smallest size.

    Raises:
        ValueError: It takes none of the sizes.
    """
    keras.utils.set_random_seed(0)
    errors = []
    for size in SIZES:
        try:
            return applications.find(f"{applications.PREFIX}{name}")((size, size, 3))
        except ValueError as error:
            errors.append(f"{size}: {error}")
    raise ValueError(f"{name} cannot be made. {'; '.join(errors)}")


def make_images(size: int, number: int = IMAGES) -> np.ndarray:
    """Random pictures of 16 coloured spots, uint8 `[number, size, size, 3]`."""
    spots = np.random.default_rng(1).integers(0, 256, (number, 4, 4, 3), np.uint8)
    side = -(-size // 4)
    return spots.repeat(side, 1).repeat(side, 2)[:, :size, :size]


def enliven(backbone: keras.Model) -> None:
    """Gives an untrained network weights with which every layer matters, as in a trained one.

    As Keras initialises them, the features of MobileNet vanish (1e-19) and the branches of ConvNeXt
    are multiplied by 1e-6. Here kernels get the variance 1 / fan-in (LeCun et al., Efficient
    BackProp, 1998), the scales of branches become 1, and those of batch norm are drawn around 1.
    With the variance 2 / fan-in EfficientNetV2 magnifies rounding to 1e-3, as no trained network
    does.
    """
    rng = np.random.default_rng(0)
    for layer in flatten_layers(backbone):
        kind = type(layer).__name__
        for weight in () if hasattr(layer, "layers") else layer.variables:
            if kind == "LayerScale":
                weight.assign(np.ones(weight.shape))
            elif weight.name in ("gamma", "moving_variance"):
                weight.assign(rng.uniform(0.5, 1.5, weight.shape))
            elif "kernel" in weight.name:
                depthwise = kind == "DepthwiseConv2D" or "depthwise" in weight.name
                inputs = weight.shape[:2] if depthwise else weight.shape[:-1]
                weight.assign(rng.normal(0, np.sqrt(1 / np.prod(inputs)), weight.shape))


def read_table() -> dict[str, Row]:
    """The rows of docs/results/applications.json, by the name of the application."""
    rows = json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.is_file() else []
    return {row["name"]: Row(**row) for row in rows}


def write_row(row: Row) -> None:
    """Replaces a row of docs/results/applications.json, and the table on the page."""
    rows = read_table() | {row.name: row}
    table = [rows[name]._asdict() for name in sorted(rows)]
    TABLE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8"), rows), encoding="utf-8")


def render(page: str, rows: dict[str, Row]) -> str:
    """The text of the page, with its table made of the rows."""
    lines = [
        HEADER,
        "|---" * HEADER.count(" | ") + "|---|",
        *(str(rows[name]) for name in sorted(rows)),
    ]
    return BLOCK.sub(lambda match: match[1] + "\n".join(lines) + match[2], page)


def main() -> None:
    """Tries the applications named, or all, and prints their rows."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    everything = [name.removeprefix(applications.PREFIX) for name in applications.names()]
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    arguments = parser.parse_args()
    for name in arguments.names or everything:
        row = try_application(name)
        print(row, flush=True)
        write_row(row)
        keras.backend.clear_session()


if __name__ == "__main__":
    main()
