"""How reports word what was measured."""

from typing import Any

NORMS = {
    "batch": "batch (inductive)",
    "support": "support (inductive)",
    "task": "task (transductive)",
}


def percent(row: dict[str, Any]) -> str:
    """An accuracy and its interval."""
    return f"{row['accuracy']:.1%} +- {row['ci95']:.1%}"


def share(value: float | None, interval: float | None) -> str:
    """A similarity and its interval; a dash where it is not defined."""
    return "-" if value is None else f"{value:.3f} +- {interval:.3f}"
