"""A bundle with 64 features and random weights, for the serving benchmarks."""

import contextlib
import io
from pathlib import Path

from tests.export.conftest import make_run


def make_bundle(folder: Path) -> Path:
    """Exports the small model of the tests to a bundle in a folder."""
    from anil_tf.export.bundle import export_bundle

    folder.mkdir(exist_ok=True)
    with contextlib.redirect_stdout(io.StringIO()):
        export_bundle(make_run(folder / "run"), folder / "bundle", ["saved_model", "onnx"])
    return folder / "bundle"
