"""Classes of unequal size in Node and in a browser: as many queries are right as in float64."""

import subprocess
import sys

import numpy as np
import pytest

from anil_tf import EpisodeSampler
from anil_tf.acceptance import UNDIVIDED
from anil_tf.datasets.tfds import read_tfds
from anil_tf.export.runtime import open_bundle
from anil_tf.export.verify import reference
from anil_tf.training.evaluate import evaluate_episodes
from tests.export.conftest import IMAGE_SHAPE, make_run
from tests.export.more_runtimes import MORE_RUNTIMES

EPISODES, LEARNING_RATE, STEPS = 8, 3.0, 5


class Reference:
    """The float64 implementation as a runtime, on the pixels of the images."""

    name, inner_lr, inner_steps, temperature = "reference", LEARNING_RATE, STEPS, UNDIVIDED

    def adapt_and_predict(self, episode, ways, steps):
        support, query = (
            images.reshape(len(images), -1) / np.linalg.norm(images, axis=(1, 2))
            for images in (episode["support_x"].astype(float), episode["query_x"].astype(float))
        )
        kernel, bias = np.zeros((support.shape[1], ways)), np.zeros(ways)
        before, _ = reference.predict(query, kernel, bias)
        adapted = reference.adapt(support, episode["support_y"], kernel, bias, self.inner_lr, steps)
        return before, reference.predict(query, adapted.kernel, adapted.bias)[0]


@pytest.fixture(scope="module")
def pixels_bundle(made_once):
    """The bundle of a backbone whose features are the pixels of an image, at unit length."""

    def export(folder):
        import keras

        from anil_tf.export import export_bundle

        image = keras.Input(IMAGE_SHAPE)
        pixels = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(image))
        backbone = keras.Model(image, keras.layers.UnitNormalization()(pixels))
        settings = {"inner_lr": LEARNING_RATE, "inner_steps": STEPS}
        run = make_run(folder / "run", backbone=backbone, **settings)
        export_bundle(run, folder / "bundle", ["onnx", "litert"])

    return made_once("pixels-bundle", export) / "bundle"


@pytest.fixture(scope="module")
def sampler(glyphs_data_dir):
    """Episodes of glyphs, with 1 to 10 images of each class to learn from."""
    glyphs = read_tfds("glyphs", ["test"], IMAGE_SHAPE, glyphs_data_dir)
    return EpisodeSampler(glyphs, ways=5, shots=(1, 10), queries=5, seed=3)


@pytest.mark.parametrize("name", ["onnx_web_node", "onnx_web_chromium", "litert_web_chromium"])
def test_classes_of_unequal_size_are_learned_as_in_float64(
    pixels_bundle, more_runtimes, sampler, name
):
    try:
        runtime = open_bundle(pixels_bundle, name)
    except ImportError as error:
        pytest.skip(str(error))
    figures = evaluate_episodes(runtime, sampler, EPISODES)
    expected = evaluate_episodes(Reference(), sampler, EPISODES)
    assert figures["accuracy"] == pytest.approx(expected["accuracy"], abs=1e-9)
    assert figures["accuracy_by_shots"] == pytest.approx(expected["accuracy_by_shots"], abs=1e-9)
    assert figures["accuracy_by_shots"]["1"] > 0.5


def test_the_command_of_the_tools_knows_every_runtime(tmp_path, repository):
    words = ["tools.all_runtimes", "evaluate", str(tmp_path), "--runtime", "abacus"]
    process = subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, text=True, cwd=repository
    )
    assert process.returncode == 2
    assert all(f"'{name}'" in process.stderr for name in ["onnx", *MORE_RUNTIMES])
