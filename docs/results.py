"""Writes the tables of docs/results.md from the JSON files in docs/results/.

    python docs/results.py

The page is written by hand, except for the text between `<!-- table NAME -->` and `<!-- end -->`:
docs/results/NAME.json, as `anil reproduce --json` writes it, or all JSON files of the folder
docs/results/NAME/, as `anil evaluate --json` writes them.
"""

import json
import re
from pathlib import Path
from typing import Any

from anil_tf.training.wording import markdown_table

DOCS = Path(__file__).resolve().parent
BLOCK = re.compile(r"(<!-- table (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def render(text: str, folder: Path) -> str:
    """The page's text with its tables made from the files in `folder`."""
    return BLOCK.sub(lambda match: match[1] + _tables(folder / match[2]) + match[3], text)


def _tables(source: Path) -> str:
    if source.is_dir():
        files = sorted(source.glob("*.json"))
        rows = [_evaluation(file.stem, json.loads(file.read_text("utf-8"))) for file in files]
        return _table(rows)
    rows = json.loads(source.with_suffix(".json").read_text("utf-8"))
    parts = []
    for section in dict.fromkeys(row["section"] for row in rows):
        chosen = [row for row in rows if row["section"] == section]
        body = [{key: row[key] for key in row if key != "section"} for row in chosen]
        parts.append(f"\n**{section}**\n\n{_table(body)}")
    return "".join(parts) + "\n"


def _evaluation(name: str, figures: dict[str, Any]) -> dict[str, str]:
    steps = figures["inner_steps"]
    how = "none (NIL)" if figures["nil"] else f"{steps} step{'s' if steps != 1 else ''}"
    before = "" if figures["nil"] else f"{figures['accuracy_before_adaptation']:.2%}"
    return {
        "run": name.partition("--")[0],
        "test episodes": f"{figures['ways']}-way {figures['shots']}-shot",
        "inner loop": how,
        "norm": figures["norm"],
        "episodes": str(figures["episodes"]),
        "before": before,
        "accuracy": f"{100 * figures['accuracy']:.2f} +- {figures['ci95']:.2%}",
    }


def _table(rows: list[dict[str, str]]) -> str:
    columns = ["" if key == "row" else key for key in rows[0]]
    return markdown_table(columns, [list(row.values()) for row in rows])


def main() -> None:
    """Rewrite the page."""
    page = DOCS / "results.md"
    page.write_text(render(page.read_text("utf-8"), DOCS / "results"), encoding="utf-8")


if __name__ == "__main__":
    main()
