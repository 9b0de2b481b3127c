"""The report of a study: tables and pictures of its runs, as Markdown and self-contained HTML."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anil_tf.training.report.html import heading, page, paragraph, picture, table
from anil_tf.training.wording import NORMS, percent

NOT_RUN = "not run"
PROTOCOL = ("episodes", "training steps", "norm", "minutes")


@dataclass(frozen=True)
class Section:
    """A heading, what to know of it, a table, and pictures."""

    title: str
    text: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    pictures: tuple[Path, ...] = ()


def not_run(label: str, beside: str) -> tuple[str, ...]:
    """The row of what has not been run."""
    return (label, beside, NOT_RUN, *[""] * len(PROTOCOL))


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

    def row(
        self,
        label: str,
        beside: str,
        stage: str,
        key: str = "evaluate",
        text: Callable[[dict[str, Any]], str] = percent,
    ) -> tuple[str, ...]:
        """A test of a stage, `key` of its metrics; `beside` it what it is to be compared with."""
        metrics = self.read(stage, "metrics.json")
        return self._row(label, beside, stage, metrics.get(key), text)

    def analysed(
        self, label: str, beside: str, stage: str, text: Callable[[dict[str, Any]], str]
    ) -> tuple[str, ...]:
        """A figure of a stage's analysis."""
        return self._row(label, beside, stage, self.read(stage, "analysis.json"), text)

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
        trained = self.read(stage, "metrics.json")["train"]
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
        folder: Of the stages' run directories, where the report goes.
        title: Of the report.
        sections: Its tables.

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
        lines += [f"| {' | '.join(section.columns)} |", "|---" * len(section.columns) + "|"]
        lines += [f"| {' | '.join(row)} |" for row in section.rows]
        lines.append("")
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
