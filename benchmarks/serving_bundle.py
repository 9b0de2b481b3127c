"""A bundle with 64 features for the serving benchmarks: random weights, which cost the same."""

import contextlib
import io
from pathlib import Path

import numpy as np
import tomli_w

from anil_tf import ANIL, backbones

SHAPE = (28, 28, 1)


def make_bundle(folder: Path) -> Path:
    """Exports a small model to a bundle in a folder."""
    from anil_tf.export.bundle import export_bundle

    run = folder / "run"
    run.mkdir(parents=True)
    rng = np.random.default_rng(0)
    model = ANIL(
        backbones.conv4_strided(SHAPE, filters=16, pooling=False),
        ways=5,
        head_init="shared",
        inner_lr=0.05,
    )
    model.build({"support_x": (None, None, *SHAPE)})
    model.save(run / "model.keras")
    recipe = {"name": "benchmark", "seed": 0, "data": {"source": "noise"}, "evaluation": {}}
    (run / "recipe.toml").write_text(tomli_w.dumps(recipe))
    image = rng.integers(0, 256, (60, *SHAPE), np.uint8)
    np.savez(run / "examples.npz", image=image, label=np.repeat(np.arange(10), 6))
    with contextlib.redirect_stdout(io.StringIO()):
        export_bundle(run, folder / "bundle", ["saved_model", "onnx"])
    return folder / "bundle"
