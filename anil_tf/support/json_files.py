"""Figures on disk: every JSON file that a command or a run leaves is written here."""

import json
from pathlib import Path
from typing import Any

from anil_tf.support.files import replacing


def write_json(path: Path | None, figures: Any) -> None:
    """Writes figures as indented JSON in UTF-8; nowhere without a path, as of `--json` unused."""
    if path is None:
        return
    text = json.dumps(figures, indent=2, ensure_ascii=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")
