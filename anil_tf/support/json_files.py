"""The JSON files that a command or a run writes, and how they are read."""

import json
from pathlib import Path
from typing import Any

from anil_tf.support.files import replacing


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object in UTF-8; an empty one where the file does not exist."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write_json(path: Path | None, values: Any) -> None:
    """Writes values as indented JSON in UTF-8; does nothing without a path."""
    if path is None:
        return
    text = json.dumps(values, indent=2, ensure_ascii=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")
