"""The report of a study: tables and pictures of its runs, as Markdown and as one HTML file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anil_tf.support.json_files import read_json
from anil_tf.training.report.html import heading, page, paragraph, picture, table
from anil_tf.training.run import RunDirectory
from anil_tf.training.wording import NORMS, markdown_table, percent

NOT_RUN = "not run"
PROTOCOL = ("episodes", "training steps", "norm", "minutes")


@dataclass(frozen=True)
class Section:
    """A section of a report: a heading, a text, a table, and pictures."""

    title: str
    text: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    pictures: tuple[Path, ...] = ()


def not_run(label: str, beside: str) -> tuple[str, ...]:
    """The row of a stage that has not been run."""
    return (label, beside, NOT_RUN, *[""] * len(PROTOCOL))


class Runs:
    """The runs of a study, each a stage, and the rows of tables that are made from them.

    Args:
        folder: Folder of the stages' run directories.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, stage: str) -> RunDirectory:
        """The run directory of a stage, which need not exist."""
        return RunDirectory(self.folder / stage)

    def read_metrics(self, stage: str) -> dict[str, Any]:
        """What was measured of a stage; empty before that."""
        return self.open(stage).read_metrics()

    def read_analysis(self, stage: str) -> dict[str, Any]:
        """The analysis of a stage; empty before there is one."""
        return read_json(self.open(stage).analysis_file)

    def row(
        self,
        label: str,
        beside: str,
        stage: str,
        key: str = "evaluate",
        text: Callable[[dict[str, Any]], str] = percent,
    ) -> tuple[str, ...]:
        """A row with a stage's accuracy.

        Args:
            label: First cell.
            beside: Second cell: what the accuracy is compared with.
            stage: Name of the stage.
            key: Which evaluation, `evaluate` or `evaluate_nil`.
            text: Function from the evaluation to the third cell.
        """
        return self._row(label, beside, stage, self.read_metrics(stage).get(key), text)

    def row_of_steps(
        self,
        label: str,
        beside: str,
        stage: str,
        steps: int,
        text: Callable[[dict[str, Any]], str] = percent,
    ) -> tuple[str, ...]:
        """As `row`, tested with another number of inner steps than the recipe's."""
        figures = self.open(stage).find_evaluation(inner_steps=steps)
        return self._row(label, beside, stage, figures, text)

    def analysed(
        self, label: str, beside: str, stage: str, text: Callable[[dict[str, Any]], str]
    ) -> tuple[str, ...]:
        """As `row`, with a cell from the stage's analysis."""
        return self._row(label, beside, stage, self.read_analysis(stage), text)

    def _row(
        self,
        label: str,
        beside: str,
        stage: str,
        figures: dict[str, Any] | None,
        text: Callable[[dict[str, Any]], str],
    ) -> tuple[str, ...]:
        if not figures:
            return not_run(label, beside)
        trained = self.read_metrics(stage)["train"]
        return (
            label,
            beside,
            text(figures),
            str(figures.get("episodes") or figures["tasks"]),
            f"{trained['steps']:,}",
            NORMS[figures["norm"]],
            f"{trained['seconds'] / 60:.1f}",
        )


def write_report(folder: Path, title: str, sections: Sequence[Section]) -> list[dict[str, Any]]:
    """Writes `report.md` and `report.html`, which holds its pictures.

    Args:
        folder: Folder of the stages' run directories, where the report is written.
        title: Title of the report.
        sections: Sections of the report.

    Returns:
        Every row as a dictionary of `section` and the section's columns, whose first is `row`.
    """
    (folder / "report.md").write_text(_markdown(title, sections, folder), encoding="utf-8")
    (folder / "report.html").write_text(_html(title, sections), encoding="utf-8")
    return [
        {
            "section": section.title,
            **dict(zip(("row", *section.columns[1:]), row, strict=True)),
        }
        for section in sections
        for row in section.rows
    ]


def _markdown(title: str, sections: Sequence[Section], folder: Path) -> str:
    lines = [f"# {title}", ""]
    for section in sections:
        lines += [f"## {section.title}", "", section.text, ""]
        lines.append(markdown_table(section.columns, section.rows))
        for path in section.pictures:
            if path.is_file():
                lines += [f"![{section.title}]({path.relative_to(folder).as_posix()})", ""]
    return "\n".join(lines)


def _html(title: str, sections: Sequence[Section]) -> str:
    parts = []
    for section in sections:
        parts += [heading(section.title), paragraph(section.text)]
        parts.append(table(section.columns, section.rows))
        parts += [
            picture(path.read_bytes(), section.title) for path in section.pictures if path.is_file()
        ]
    return page(title, parts)
