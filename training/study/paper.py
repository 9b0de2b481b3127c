"""The report of `anil reproduce paper`: the paper's numbers beside ours."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anil_tf.training.study.tables import PROTOCOL, Runs, Section, not_run
from anil_tf.training.wording import percent, share

COLUMNS = ("", "paper", "ours", *PROTOCOL)

# Published numbers: Raghu et al., "Rapid Learning or Feature Reuse? Towards Understanding the
# Effectiveness of MAML", ICLR 2020, https://arxiv.org/abs/1909.09157, tables 1, 2, 4, 5 and 6 and
# figure 2. +- is the deviation over three seeds there, a 95% interval over episodes here.


@dataclass(frozen=True)
class Benchmark:
    """A data set of the paper, and the accuracies that it reports for it.

    Attributes:
        name: Name of the data set.
        ways: Number of classes of a task.
        classes: Words for the test classes.
        accuracy: Published accuracies by stage; those of a test without head and inner loop by
            the stage's name and `nil`.
    """

    name: str
    ways: int
    classes: str
    accuracy: dict[str, str]

    @property
    def title(self) -> str:
        """Title of the report."""
        return f"Rapid learning or feature reuse? The paper's experiments on {self.name}"

    def compare(self) -> str:
        """What to say of numbers that the paper has for mini-ImageNet alone."""
        paper = "The paper's numbers are of mini-ImageNet, 5-way 1-shot / 5-shot"
        if self.name == "mini-ImageNet":
            return f"{paper}, ours of its 1-shot."
        return (
            f"{paper}, ours of {self.name}, {self.ways}-way 1-shot. Compare their order, not "
            "their values."
        )


OMNIGLOT = Benchmark(
    "Omniglot",
    20,
    "423 characters",
    {
        "maml-1shot": "93.7 +- 0.7 %",
        "anil-1shot": "96.2 +- 0.5 %",
        "anil-1shot nil": "96.7 +- 0.3 %",
        "maml-5shot": "96.4 +- 0.1 %",
        "anil-5shot": "98.0 +- 0.3 %",
        "anil-5shot nil": "98.0 +- 0.04 %",
    },
)
MINI_IMAGENET = Benchmark(
    "mini-ImageNet",
    5,
    "20 classes",
    {
        "maml-1shot": "46.9 +- 0.2 %",
        "anil-1shot": "46.7 +- 0.4 %",
        "anil-1shot nil": "48.0 +- 0.7 %",
        "maml-5shot": "63.1 +- 0.4 %",
        "anil-5shot": "61.5 +- 0.5 %",
        "anil-5shot nil": "62.2 +- 0.5 %",
    },
)
# Of mini-ImageNet, 5-way 1-shot and 5-shot.
REGIMES = {
    "maml": ("MAML", "48.4 / 61.5 %"),
    "anil": ("ANIL", "48.0 / 62.2 %"),
    "multiclass": ("multiclass classifier", "39.7 / 54.4 %"),
    "nil": ("NIL", "38.3 / 43.0 %"),
    "random": ("random features", "32.9 / 43.2 %"),
    "multitask": ("multitask classifier", "26.5 / 34.2 %"),
}
FREEZING = ("46.9 / 63.1 %", "46.5 %", "46.4 %", "46.3 %", "46.3 / 61.0 %")
SPEED = {"train_step": "1.7", "adaptation": "4.1"}


def paper_sections(folder: Path, benchmark: Benchmark) -> Iterator[Section]:
    """The paper's tables, from the runs that exist.

    Args:
        folder: Folder of the stages' run directories.
        benchmark: Data set of the runs.
    """
    runs = Runs(folder)
    for section in (_accuracy, _regimes, _freezing, _similarity, _speed):
        yield section(runs, benchmark)


def _accuracy(runs: Runs, benchmark: Benchmark) -> Section:
    published = benchmark.accuracy
    rows = []
    for shots in ("1shot", "5shot"):
        maml, anil = f"maml-{shots}", f"anil-{shots}"
        nil = f"ANIL's body, NIL test, {shots}"
        rows += [
            runs.row(f"{_name_maml(runs, maml)}, {shots}", published[maml], maml),
            runs.row(f"ANIL, {shots}", published[anil], anil),
            runs.row(nil, published[f"{anil} nil"], anil, "evaluate_nil"),
        ]
    rows += [
        runs.row("MAML, first order, 1shot", "", "first-order-1shot"),
        runs.row("BOIL, 1shot", "", "boil-1shot"),
    ]
    return Section(
        "Accuracy",
        f"{benchmark.name}, {_size(runs)}{benchmark.ways}-way, {benchmark.classes} never seen in "
        "training. The paper's +- is the deviation over three seeds, ours a 95% interval over "
        "episodes of one seed. First-order MAML and BOIL are not in the paper.",
        COLUMNS,
        rows,
    )


def _size(runs: Runs) -> str:
    """The size of the images, with a comma, or nothing before the first run."""
    for run in map(runs.open, ("maml-1shot", "anil-1shot")):
        if run.recipe_file.is_file():
            height, width, _ = run.read_recipe().data.image_shape
            return f"{height} x {width} pixels, "
    return ""


def _name_maml(runs: Runs, stage: str) -> str:
    """`MAML`, or how it was approximated."""
    recipe_file = runs.open(stage).recipe_file
    first_order = recipe_file.is_file() and runs.open(stage).read_recipe().model.first_order
    return "MAML, first order" if first_order else "MAML"


def _regimes(runs: Runs, benchmark: Benchmark) -> Section:
    rows = [
        runs.row(label, paper, f"{name}-1shot", "evaluate_nil")
        for name, (label, paper) in REGIMES.items()
    ]
    return Section(
        "Which training makes good features",
        "Every body is tested by NIL: no head, no inner loop, cosines to the support set. "
        f"{benchmark.compare()}",
        COLUMNS,
        rows,
    )


def _freezing(runs: Runs, benchmark: Benchmark) -> Section:
    return Section(
        "Accuracy with layers frozen during adaptation",
        "A MAML-trained network, adapted at test with its first layers frozen. "
        f"{benchmark.compare()}",
        COLUMNS,
        [_freezing_row(runs, frozen, paper) for frozen, paper in enumerate(FREEZING)],
        (runs.open("maml-1shot").analysis_picture,),
    )


def _similarity(runs: Runs, benchmark: Benchmark) -> Section:
    return Section(
        "Layers before and after the inner loop",
        "SVCCA (99% of the variance; every position of a convolution is a row) / linear CKA "
        "(every image is a row) of the queries' activations. The paper plots CCA of MAML on "
        "mini-ImageNet. BOIL, whose head does not adapt, is the contrast.",
        COLUMNS,
        [
            *_similarity_rows(runs, "maml-1shot", "MAML"),
            *_similarity_rows(runs, "boil-1shot", "BOIL"),
        ],
        (runs.open("boil-1shot").analysis_picture,),
    )


def _speed(runs: Runs, benchmark: Benchmark) -> Section:
    return Section(
        "Speed",
        "How many times longer MAML takes than ANIL: medians in one process, measured in turns, of "
        f"{benchmark.ways}-way 1-shot tasks with five inner steps.",
        COLUMNS,
        [
            _speed_row(runs, "a training step", "train_step"),
            _speed_row(runs, "adapting to a task", "adaptation"),
        ],
    )


def _speed_row(runs: Runs, label: str, name: str) -> tuple[str, ...]:
    def text(figures: dict[str, Any]) -> str:
        speed = figures["speed"][name]
        return f"{speed['ratio']:.1f} times ({speed['maml']:.0f} ms, {speed['anil']:.0f} ms)"

    return runs.analysed(label, f"{SPEED[name]} times", "maml-1shot", text)


def _freezing_row(runs: Runs, frozen: int, paper: str) -> tuple[str, ...]:
    label = {0: "none frozen", 1: "layer 1"}.get(frozen, f"layers 1-{frozen}")
    if frozen >= len(runs.read_analysis("maml-1shot").get("freezing", ())):
        return not_run(label, paper)
    return runs.analysed(
        label, paper, "maml-1shot", lambda figures: percent(figures["freezing"][frozen])
    )


def _similarity_rows(runs: Runs, stage: str, title: str) -> list[tuple[str, ...]]:
    layers = runs.read_analysis(stage).get("similarity") or {"layers": None}

    def row(layer: str) -> tuple[str, ...]:
        paper = "" if title != "MAML" else "below 0.5" if layer == "head" else "above 0.9"

        def text(figures: dict[str, Any]) -> str:
            alike = figures["similarity"][layer]
            measures = (share(alike[key], alike[f"{key}_ci95"]) for key in ("svcca", "cka"))
            return " / ".join(measures)

        return runs.analysed(f"{title}, {layer}", paper, stage, text)

    return [row(layer) for layer in layers]
