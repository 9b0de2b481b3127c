"""The report of `anil reproduce paper`: the paper's figures beside ours, as Markdown and HTML."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anil_tf.training.analyze import percent, share
from anil_tf.training.html_page import heading, page, paragraph, picture, table

NOT_RUN = "not run"
COLUMNS = ("", "paper", "ours", "episodes", "training steps", "norm", "minutes")
NORMS = {
    "batch": "batch (inductive)",
    "support": "support (inductive)",
    "task": "task (transductive)",
}

# Published figures: Raghu et al., "Rapid Learning or Feature Reuse? Towards Understanding the
# Effectiveness of MAML", ICLR 2020, https://arxiv.org/abs/1909.09157, tables 1, 2, 4, 5 and 6 and
# figure 2. +- is the deviation over three seeds there, a 95% interval over episodes here.
OMNIGLOT = {
    ("maml", "1shot"): "93.7 +- 0.7 %",
    ("anil", "1shot"): "96.2 +- 0.5 %",
    ("anil nil", "1shot"): "96.7 +- 0.3 %",
    ("maml", "5shot"): "96.4 +- 0.1 %",
    ("anil", "5shot"): "98.0 +- 0.3 %",
    ("anil nil", "5shot"): "98.0 +- 0.04 %",
}
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


@dataclass(frozen=True)
class Section:
    """A heading, what to know of it, a table of `COLUMNS`, and pictures."""

    title: str
    text: str
    rows: list[tuple[str, ...]]
    pictures: tuple[Path, ...] = ()


class Runs:
    """What lies below the output folder.

    Args:
        folder: Of the stages' run directories.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, stage: str, name: str) -> dict[str, Any]:
        """A JSON file of a stage; empty where it is not there."""
        path = self.folder / stage / name
        return json.loads(path.read_text("utf-8")) if path.is_file() else {}

    def row(self, label: str, paper: str, stage: str, key: str = "evaluate") -> tuple[str, ...]:
        """A test of a stage, `key` of its metrics."""
        metrics = self.read(stage, "metrics.json")
        return self._row(label, paper, stage, metrics.get(key), percent)

    def analysed(
        self, label: str, paper: str, stage: str, text: Callable[[dict[str, Any]], str]
    ) -> tuple[str, ...]:
        """A figure of a stage's analysis."""
        return self._row(label, paper, stage, self.read(stage, "analysis.json"), text)

    def _row(
        self,
        label: str,
        paper: str,
        stage: str,
        figures: dict[str, Any] | None,
        text: Callable[[dict[str, Any]], str],
    ) -> tuple[str, ...]:
        if not figures:
            return (label, paper, NOT_RUN, "", "", "", "")
        trained = self.read(stage, "metrics.json")["train"]
        return (
            label,
            paper,
            text(figures),
            str(figures.get("episodes") or figures["tasks"]),
            f"{trained['steps']:,}",
            NORMS[figures["norm"]],
            f"{trained['seconds'] / 60:.1f}",
        )


def build_sections(folder: Path) -> Iterator[Section]:
    """The report's sections from what has been run."""
    runs = Runs(folder)
    yield Section(
        "Accuracy",
        "Omniglot, 20-way, 423 characters never seen in training. The paper's +- is the deviation "
        "over three seeds, ours a 95% interval over episodes of one seed. First-order MAML and "
        "BOIL are not in the paper.",
        [
            row
            for shots in ("1shot", "5shot")
            for row in (
                runs.row(f"MAML, {shots}", OMNIGLOT["maml", shots], f"maml-{shots}"),
                runs.row(f"ANIL, {shots}", OMNIGLOT["anil", shots], f"anil-{shots}"),
                runs.row(
                    f"ANIL's body, NIL test, {shots}",
                    OMNIGLOT["anil nil", shots],
                    f"anil-{shots}",
                    "evaluate_nil",
                ),
            )
        ]
        + [
            runs.row("MAML, first order, 1shot", "", "first-order-1shot"),
            runs.row("BOIL, 1shot", "", "boil-1shot"),
        ],
    )
    yield Section(
        "Which training makes good features",
        "Every body tested by NIL: no head, no inner loop, cosines to the support set. The paper's "
        "figures are of mini-ImageNet, 5-way 1-shot / 5-shot, ours of Omniglot, 20-way 1-shot: the "
        "order compares, the figures do not.",
        [
            runs.row(label, paper, f"{name}-1shot", "evaluate_nil")
            for name, (label, paper) in REGIMES.items()
        ],
    )
    yield Section(
        "Accuracy with layers frozen during adaptation",
        "A MAML-trained network, adapted at test with its first layers left as they are. The "
        "paper's figures are of mini-ImageNet, 5-way 1-shot / 5-shot.",
        [_freezing_row(runs, frozen, paper) for frozen, paper in enumerate(FREEZING)],
        (folder / "maml-1shot" / "analysis.png",),
    )
    yield Section(
        "Layers before and after the inner loop",
        "SVCCA (99% of the variance, a position of a convolution is a row) / linear CKA (an image "
        "is a row) of the queries' activations. The paper plots CCA of MAML on mini-ImageNet. "
        "BOIL, whose head stays, is the contrast.",
        [
            row
            for stage, title in (("maml-1shot", "MAML"), ("boil-1shot", "BOIL"))
            for row in _similarity_rows(runs, stage, title)
        ],
        (folder / "boil-1shot" / "analysis.png",),
    )
    yield Section(
        "Speed",
        "How many times longer MAML takes than ANIL, medians in one process, taken in turns, of "
        "20-way 1-shot tasks with five inner steps.",
        [
            runs.analysed(
                {"train_step": "a training step", "adaptation": "adapting to a task"}[name],
                f"{paper} times",
                "maml-1shot",
                lambda figures, name=name: (  # type: ignore[misc]
                    f"{figures['speed'][name]['ratio']:.1f} times "
                    f"({figures['speed'][name]['maml']:.0f} ms, "
                    f"{figures['speed'][name]['anil']:.0f} ms)"
                ),
            )
            for name, paper in SPEED.items()
        ],
    )


def _freezing_row(runs: Runs, frozen: int, paper: str) -> tuple[str, ...]:
    label = {0: "none frozen", 1: "layer 1"}.get(frozen, f"layers 1-{frozen}")
    if frozen >= len(runs.read("maml-1shot", "analysis.json").get("freezing", ())):
        return (label, paper, NOT_RUN, "", "", "", "")
    return runs.analysed(
        label, paper, "maml-1shot", lambda figures: percent(figures["freezing"][frozen])
    )


def _similarity_rows(runs: Runs, stage: str, title: str) -> list[tuple[str, ...]]:
    layers = runs.read(stage, "analysis.json").get("similarity") or {"layers": None}

    def row(layer: str) -> tuple[str, ...]:
        paper = "" if title != "MAML" else "below 0.5" if layer == "head" else "above 0.9"

        def text(figures: dict[str, Any]) -> str:
            alike = figures["similarity"][layer]
            measures = (share(alike[key], alike[f"{key}_ci95"]) for key in ("svcca", "cka"))
            return " / ".join(measures)

        return runs.analysed(f"{title}, {layer}", paper, stage, text)

    return [row(layer) for layer in layers]


def write_report(folder: Path) -> list[dict[str, Any]]:
    """Writes `report.md` and `report.html`, which holds its pictures.

    Args:
        folder: Of the stages' run directories; those not there are "not run".

    Returns:
        Every row as a dictionary of `section` and `COLUMNS`, whose first is `row`.
    """
    sections = list(build_sections(folder))
    title = "Rapid learning or feature reuse? The paper's experiments on Omniglot"
    (folder / "report.md").write_text(_markdown(title, sections, folder), encoding="utf-8")
    (folder / "report.html").write_text(_html(title, sections), encoding="utf-8")
    names = ("row", *COLUMNS[1:])
    return [
        {"section": section.title, **dict(zip(names, row, strict=True))}
        for section in sections
        for row in section.rows
    ]


def _markdown(title: str, sections: list[Section], folder: Path) -> str:
    lines = [f"# {title}", ""]
    for section in sections:
        lines += [f"## {section.title}", "", section.text, ""]
        lines += [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
        lines += [f"| {' | '.join(row)} |" for row in section.rows]
        lines.append("")
        for path in section.pictures:
            if path.is_file():
                lines += [f"![{section.title}]({path.relative_to(folder).as_posix()})", ""]
    return "\n".join(lines)


def _html(title: str, sections: list[Section]) -> str:
    parts = []
    for section in sections:
        parts += [heading(section.title), paragraph(section.text), table(COLUMNS, section.rows)]
        parts += [
            picture(path.read_bytes(), section.title) for path in section.pictures if path.is_file()
        ]
    return page(title, parts)
