"""How reports word what was measured."""

from collections.abc import Iterable, Sequence
from typing import Any

NORMS = {
    "batch": "batch (inductive)",
    "support": "support (inductive)",
    "task": "task (transductive)",
}


def percent(row: dict[str, Any]) -> str:
    """An accuracy and its interval."""
    return f"{row['accuracy']:.1%} +- {row['ci95']:.1%}"


def value(figures: dict[str, Any], suffix: str = "") -> str:
    """A metric and its interval, such as `97.1 ± 0.2 %`.

    Args:
        figures: An evaluation.
        suffix: `"_before_adaptation"` for that metric.
    """
    interval = figures[f"ci95{suffix}"]
    if "mse" in figures:
        return f"{figures[f'mse{suffix}']:.3g} ± {interval:.1g}"
    return f"{100 * figures[f'accuracy{suffix}']:.1f} ± {100 * interval:.1f} %"


def share(value: float | None, interval: float | None) -> str:
    """A similarity and its interval; a dash where it is not defined."""
    return "-" if value is None else f"{value:.3f} +- {interval:.3f}"


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, one line per row.

    Args:
        columns: Headings of the columns.
        rows: Cells of each row.
    """
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
