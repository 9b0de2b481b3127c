"""The programs in examples/serving, run as a user runs them."""

import os
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from anil_tf.datasets.inputs import encode_pictures
from anil_tf.export.runtime import open_bundle
from tests.export.serving.server import Loaded


@pytest.fixture
def example(repository, tmp_path):
    def run(name, *arguments):
        done = subprocess.run(
            [sys.executable, repository / "examples" / "serving" / name, *map(str, arguments)],
            capture_output=True, text=True, cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(repository)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_a_user_teaches_a_server_classes_and_has_images_named(served, example, tmp_path):
    rng = np.random.default_rng(0)
    for name, brightness in {"dark": 20, "light": 230}.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(3):
            pixels = rng.normal(brightness, 8, (28, 28)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{index}.png")
    url = next(iter(served.urls.values()))
    common = (served.bundle, "--url", url, "--heads", tmp_path / "heads", "--user", "ann")
    assert example("learn.py", *common, tmp_path / "photos") == "ann: learned dark, light\n"
    images = [tmp_path / "photos" / name / "0.png" for name in ("dark", "light")]
    named = example("learn.py", *common, "--name", *images).splitlines()
    assert [line.rsplit(": ")[1].split()[0] for line in named] == ["dark", "light"]


def test_the_tasks_that_are_written_can_be_learned(bundle, example, tmp_path):
    from anil_tf.export.bulk import fit
    from anil_tf.export.bulk import run as bulk

    example("make_tasks.py", bundle, "tasks.parquet", "--tasks", 20)
    job, (chunk,) = bulk.prepare(bundle, tmp_path / "tasks.parquet", tmp_path / "out", None, None)
    assert fit.fit_chunk(job, chunk)[:2] == (20, 0)
    assert pq.read_table(tmp_path / "out" / "heads")["task"][19].as_py() == "user-19"


def test_the_backbone_alone_is_a_model_that_may_be_batched(bundle, example, images, tmp_path):
    example("features_model.py", bundle, "model")
    servable = Loaded(tmp_path / "model" / "1")
    expected = open_bundle(bundle, "saved_model").features(images)
    for name in ("features", "serving_default"):
        definition = servable.signature(name)
        assert set(definition.inputs) == {"image"}
        outputs = servable.run(definition, {"image": images})
        np.testing.assert_allclose(outputs["features"], expected, rtol=1e-5, atol=1e-6)
    files = encode_pictures(images)
    encoded = servable.run(servable.signature("features_encoded"), {"encoded": files})
    np.testing.assert_array_equal(encoded["features"], outputs["features"])
    names = {"features", "features_encoded", "serving_default"}
    assert set(servable.signatures) - {"__saved_model_init_op"} == names
    assert "max_batch_size" in (tmp_path / "model" / "1" / "batching_params.pbtxt").read_text()
