"""Every JSON file that a command or a run writes."""

import json
from pathlib import Path
from typing import Any

from anil_tf.support.files import replacing


def write_json(path: Path | None, values: Any) -> None:
    """Writes values as indented JSON in UTF-8; does nothing without a path."""
    if path is None:
        return
    text = json.dumps(values, indent=2, ensure_ascii=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")
