"""Tiny runs, random but not trivial, and their bundles, made once a session."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

IMAGE_SHAPE = (28, 28, 1)
# At a share of 0.5 no image is similar enough, at 0.99 every image is.
ACCEPTANCE = {
    "rates": [0.5, 0.99],
    "shots": [1, 5],
    "thresholds": [[2.0, -2.0], [2.0, -2.0]],
    "temperature": [4.0, -0.75],
}


def make_run(
    folder: Path, head_init: str = "shared", backbone: Any = None, **settings: Any
) -> Path:
    """A run directory as training leaves it, of a small random backbone unless one is given."""
    import keras

    from anil_tf import ANIL, backbones

    keras.utils.set_random_seed(7)
    rng = np.random.default_rng(7)
    if backbone is None:
        backbone = backbones.conv4_strided(IMAGE_SHAPE, filters=16, pooling=False)
        # Scales and moving averages away from the zeros and ones that they start from.
        for variable in backbone.variables:
            if "norm" in variable.path:
                variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    settings = {"ways": 5, "inner_lr": 0.05} | settings
    model = ANIL(backbone, head_init=head_init, **settings)
    model.build({"support_x": (None, None, *IMAGE_SHAPE)})
    for weight in model.head.weights:
        weight.assign(rng.normal(0, 0.1, weight.shape))

    folder.mkdir()
    model.save(folder / "model.keras")
    recipe = {
        "name": "tiny",
        "seed": 7,
        "data": {"source": "noise", "image_shape": list(IMAGE_SHAPE)},
        "training": {"shots": 2},
        "evaluation": {"episodes": 10},
    }
    (folder / "recipe.toml").write_text(tomli_w.dumps(recipe))
    (folder / "metrics.json").write_text(json.dumps({"acceptance": ACCEPTANCE}))
    np.savez(
        folder / "examples.npz",
        image=rng.integers(0, 256, (60, *IMAGE_SHAPE), np.uint8),
        label=np.repeat(np.arange(10, dtype=np.int32), 6),
        names=np.array([f"class {index}" for index in range(10)]),
    )
    return folder


@pytest.fixture(scope="session")
def run(made_once: Callable[..., Path]) -> Path:
    """A run with a shared head. Not to be changed."""
    return made_once("shared-run", lambda folder: make_run(folder / "run")) / "run"


@pytest.fixture(scope="session")
def bundle(run: Path, made_once: Callable[..., Path]) -> Path:
    """Its bundle, in every format. Not to be changed."""

    def export(folder: Path) -> None:
        from anil_tf.export.bundle import export_bundle

        export_bundle(run, folder / "bundle", int8=True)

    return made_once("shared-bundle", export) / "bundle"


@pytest.fixture(scope="session")
def per_class_bundle(made_once: Callable[..., Path]) -> Path:
    """The bundle of a run with a column for each of five classes. Not to be changed."""

    def export(folder: Path) -> None:
        from anil_tf.export.bundle import export_bundle

        export_bundle(make_run(folder / "run", "per_class"), folder / "bundle")

    return made_once("per-class-bundle", export) / "bundle"


@pytest.fixture(scope="session")
def micro_bundle(run: Path, made_once: Callable[..., Path]) -> Path:
    """A bundle for microcontrollers, with space for 4 classes and 12 rows. Not to be changed."""
    pytest.importorskip("tflite_micro")  # has wheels for Linux on x86-64 alone

    def export(folder: Path) -> None:
        from anil_tf.export.bundle import export_bundle

        export_bundle(run, folder / "bundle", ["onnx", "tflm"], ways=4, rows=12)

    return made_once("micro-bundle", export) / "bundle"


@pytest.fixture(scope="module")
def more_runtimes(bundle: Path, per_class_bundle: Path) -> Iterator[None]:
    """Adds the runtimes that only the tests have; no bundle is exported meanwhile."""
    from anil_tf.export.runtime import RUNTIMES
    from tests.export.more_runtimes import MORE_RUNTIMES

    with pytest.MonkeyPatch.context() as patch:
        for name, entry in MORE_RUNTIMES.items():
            patch.setitem(RUNTIMES, name, entry)
        yield


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """Twelve images."""
    return np.random.default_rng(3).integers(0, 256, (12, *IMAGE_SHAPE), np.uint8)


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Path], Path]:
    """Copies a bundle, for a test that changes it."""
    import shutil

    return lambda source: Path(shutil.copytree(source, tmp_path / "copy"))
