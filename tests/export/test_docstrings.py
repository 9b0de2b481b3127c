"""Every example of a docstring runs."""

import ast
import re
import shutil
import textwrap
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from anil_tf import ANIL, ClassImages, EpisodeAccuracy, EpisodeSampler, backbones
from anil_tf.export import FewShotClient, Predictor, adapt_many, read_heads, read_manifest
from anil_tf.export.runtime.onnx import OnnxRuntime
from anil_tf.export.serving.files import served_name
from tests.conftest import ROOT

pa = pytest.importorskip("pyarrow")


def find_examples() -> dict[str, str]:
    """The examples of the package's docstrings, by class or function."""
    examples = {}
    for folder in ("anil_tf", "training", "export"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                    found = re.search(
                        r"^Examples?:\n((?: {4}.*\n?|\n)+)", ast.get_docstring(node) or "", re.M
                    )
                    if found:
                        examples[getattr(node, "name", file.stem)] = textwrap.dedent(found[1])
    return examples


EXAMPLES = find_examples()


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (10, 28, 28, 1), np.uint8)


@pytest.fixture
def desk(bundle, tmp_path, monkeypatch) -> Path:
    """The working directory, with a folder `bundle`."""
    shutil.copytree(bundle, tmp_path / "bundle")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_example_is_run_here():
    assert set(EXAMPLES) == {"ANIL", "OnnxRuntime", "Predictor", "FewShotClient", "adapt_many"}


def test_anil():
    images = np.random.default_rng(0).integers(0, 256, (36, 28, 28, 1), np.uint8)
    classes = ClassImages.from_arrays(images, np.repeat(np.arange(6), 6))
    sampler = EpisodeSampler(classes, ways=5, shots=1, queries=2)
    given = {
        "ANIL": ANIL,
        "EpisodeAccuracy": EpisodeAccuracy,
        "backbones": backbones,
        "sampler": sampler,
    }
    small = EXAMPLES["ANIL"].replace("batches=1000, tasks=8", "batches=1, tasks=1")
    exec(small.replace("epochs=10", "epochs=1"), given)
    assert isinstance(given["model"], keras.Model) and given["model"].optimizer.iterations == 1


def test_onnx_runtime(desk, images):
    given = {
        "OnnxRuntime": OnnxRuntime,
        "support_images": images[:5],
        "labels": np.arange(5, dtype=np.int32),
        "query_images": images,
    }
    exec(EXAMPLES["OnnxRuntime"], given)
    assert given["probabilities"].shape == (10, 5)


def test_predictor(desk, images):
    for name, image in zip(("a1", "a2", "b1", "c1", "new"), images, strict=False):
        Image.fromarray(image[..., 0]).save(f"{name}.jpg")
    given = {"Predictor": Predictor}
    exec(EXAMPLES["Predictor"], given)
    assert given["probabilities"].shape == (1, 3)
    assert given["again"].names == ("ann", "bob", "cat")


def test_client(desk, images):
    from tests.export.serving.server import serve_bundle

    given = {
        "FewShotClient": FewShotClient,
        "images": images,
        "labels": [0, 1] * 5,
        "new_images": images[:3],
    }
    with serve_bundle(served_name(read_manifest(desk / "bundle").name), desk / "bundle") as (_, at):
        exec(EXAMPLES["FewShotClient"].replace("grpc://localhost:8500", at["grpc"]), given)
    assert given["probabilities"].shape == (3, 2)


def test_adapt_many(desk, images):
    from pyarrow import parquet

    columns = {
        "task": ["one", "two"],
        "labels": [[0, 1, 2, 3, 4]] * 2,
        "images": [images[:5].tobytes(), images[5:].tobytes()],
    }
    parquet.write_table(pa.table(columns), "tasks.parquet")
    heads = {}

    class Store:
        put = heads.__setitem__

    given = {
        "Path": Path,
        "adapt_many": adapt_many,
        "read_heads": read_heads,
        "read_manifest": read_manifest,
        "store": Store,
    }
    exec(EXAMPLES["adapt_many"], given)
    assert given["summary"].heads == 2 and heads.keys() == {"one", "two"}
