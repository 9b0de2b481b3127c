"""Common mistakes, and what a user is told: what is wrong, what was received, what to do.

Each is typed at the real command line, in a folder with a run, a bundle, heads and pictures. `...`
in a message stands for anything. Here, and not beside the commands, for the bundles made once.
"""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from anil_tf.cli import main
from anil_tf.export import Predictor
from tests.export.conftest import make_run

SMALL = "--set training.ways=2 --set training.queries=1 --set data.split_sizes=[2,2,2]"
TRAIN = f"train --recipe grocery84 --output out {SMALL} --data-dir"
VGG = "keras.applications.VGG16"

MISTAKES = {
    "a command misspelt": (
        "trian --recipe glyphs",
        "No such command 'trian'. Did you mean 'train'?",
    ),
    "an option that there is not": (
        "train --recipe glyphs --output out --steps 5",
        "No such option '--steps'. To change the recipe: --set training.steps=VALUE",
    ),
    "no recipe": (
        "train --output out",
        "Missing option '--recipe'. A recipe's name or a TOML file.",
    ),
    "a recipe misspelt": (
        "train --recipe gliphs --output out",
        "gliphs is neither a recipe file nor one of cifar-fs-.... Did you mean 'glyphs'?",
    ),
    "a recipe file that is no TOML": (
        "train --recipe notes.toml --output out",
        "notes.toml is not TOML: ... (at line 1, column ...)",
    ),
    "a key misspelt": (
        "train --recipe glyphs --output out --set training.stpes=100",
        "training.stpes is not a key of recipes. Did you mean 'training.steps'? "
        "Received: training.stpes=100",
    ),
    "a key without its table": (
        "train --recipe glyphs --output out --set ways=5",
        "ways is not a key of recipes. Did you mean 'training.ways' or 'evaluation.ways'? "
        "Received: ways=5",
    ),
    "a key without a value": (
        "train --recipe glyphs --output out --set training.steps",
        "Overrides are KEY=VALUE, such as training.steps=100. Received: training.steps",
    ),
    "a value of another type": (
        "train --recipe glyphs --output out --set training.steps=many",
        "training.steps: Input should be a valid integer, ... Received: 'many'",
    ),
    "a value that there is not": (
        "train --recipe glyphs --output out --set model.norm=layer",
        "model.norm: Input should be 'batch', 'frozen', 'support' or 'task'. Received: 'layer'",
    ),
    "a backbone misspelt": (
        f"{TRAIN} photographs --set model.backbone.name=conv5",
        "model.backbone: name must be one of ['conv1d', ...], or keras.applications.NAME. "
        "Did you mean 'conv4'? Received: 'conv5'",
    ),
    "weights that are not there": (
        f"{TRAIN} photographs --set model.backbone={{name='{VGG}',weights='v.h5'}}",
        "model.backbone: weights: there is no file v.h5. Where there is a network, "
        "weights = 'imagenet' downloads Keras's own, and "
        "keras.applications.VGG16(include_top=False).save_weights('FILE.weights.h5') writes a file",
    ),
    "no folder of classes": (
        "train --recipe grocery84 --output out",
        "This recipe reads a folder of classes. Say where it is with --data-dir",
    ),
    "a folder that is not there": (
        f"{TRAIN} nowhere",
        "nowhere is not a folder. Expected one folder per class in it",
    ),
    "pictures that are not in folders of classes": (
        f"{TRAIN} photographs/a",
        "photographs/a has no class folders. Expected a folder for each class with images in it",
    ),
    "a class without pictures": (
        f"{TRAIN} empty",
        "class 'a' has no images in empty/a.",
    ),
    "a picture that is none": (
        f"{TRAIN} broken",
        "broken/.../1.png is not an image that decodes: ...",
    ),
    "too few classes": (
        f"{TRAIN} photographs --set training.ways=3",
        "The train split is too small: 3-way episodes need at least 3 classes. "
        "Received: 2 classes. Lower training.ways, training.shots or "
        "training.queries, or give more data. With so little data, do not train: ...",
    ),
    "too few pictures of a class": (
        f"{TRAIN} photographs --set training.queries=9",
        "The train split is too small: 5 shots and 9 queries need 14 images per class. "
        "Received: class ... with 6. Lower training.ways, training.shots or training.queries, "
        "or give more data. With so little data, do not train: "
        "`anil export photos --output BUNDLE` makes a model of photographs that is ready to learn, "
        "and `anil adapt BUNDLE --support DIR --output HEAD` learns your classes",
    ),
    "an output that is there already": (
        "train --recipe grocery84 --output run --data-dir photographs",
        "run exists. Resume that run with --resume, or choose another --output",
    ),
    "a run that is not there": (
        "evaluate rnu",
        "Invalid value for 'RUN|BUNDLE': Directory 'rnu' does not exist.",
    ),
    "a folder that is neither run nor bundle": (
        "evaluate photographs",
        "photographs is neither a finished run (model.keras) nor a bundle (manifest.json)",
    ),
    "a run on a runtime of bundles": (
        "evaluate run --runtime onnx",
        "run is a run; --runtime onnx needs a bundle. Make one: anil export run",
    ),
    "a format that there is not": (
        "export run --output out --targets onxx",
        "targets must be some of ['litert', 'onnx', 'saved_model', 'tflm']. Received: ['onxx']",
    ),
    "a bundle that is there already": (
        "export run --output bundle",
        "bundle exists. Remove it or choose another output",
    ),
    "a run whose norm is not for export": (
        "export transductive --output out",
        "A model trained with norm='task' normalises an image by those beside it. ...: "
        "train with norm='batch' or norm='frozen' to export",
    ),
    "a run in the place of its bundle": (
        "adapt run --support photographs --output out.npz",
        "run is a run, not a bundle. Make one: anil export run --output BUNDLE",
    ),
    "one class to tell apart": (
        "adapt bundle --support one --output out.npz",
        "There must be at least 2 classes to tell apart. Received: ['a']. Learn more classes",
    ),
    "more classes than a head has": (
        "adapt per_class_bundle --support photographs --output out.npz",
        "This bundle's head has a column for each of 5 classes. Received: ways=6. "
        "Train with head_init = 'shared' for any number of classes.",
    ),
    "a class to forget that is not known": (
        "adapt bundle --from head.npz --remove red --output out.npz",
        "There is no class 'red' to remove. There are: ['a', 'b']",
    ),
    "no head to predict with": (
        "predict bundle photographs/a/1.png",
        "Missing option '--head'. Written by `anil adapt`.",
    ),
    "a head of another bundle": (
        "predict bundle --head other.npz photographs/a/1.png",
        "other.npz was made with another bundle: ... Run `anil adapt` with this bundle",
    ),
    "a picture to name that is not there": (
        "predict bundle --head head.npz new.png",
        "There is no image new.png",
    ),
    "a folder to name without pictures": (
        "predict bundle --head head.npz empty/a",
        "empty/a has no images.",
    ),
    "a data set misspelt": (
        "datasets omniglott",
        "'omniglott' is neither a recipe, nor a data set of a recipe, nor a folder. "
        "Did you mean 'omniglot'? ...",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def desk(run, bundle, per_class_bundle, tmp_path_factory) -> Path:
    """The folder that the user is in."""
    desk = tmp_path_factory.mktemp("desk")
    for name, path in {"run": run, "bundle": bundle, "per_class_bundle": per_class_bundle}.items():
        (desk / name).symlink_to(path)
    make_run(desk / "transductive", norm="task")
    (desk / "notes.toml").write_text("train five classes")
    rng = np.random.default_rng(0)
    for name in "abcdef":
        (desk / "photographs" / name).mkdir(parents=True)
        for index in range(6):
            pixels = rng.integers(0, 256, (28, 28), np.uint8)
            Image.fromarray(pixels).save(desk / "photographs" / name / f"{index}.png")
    shutil.copytree(desk / "photographs" / "a", desk / "one" / "a")
    shutil.copytree(desk / "photographs", desk / "empty")
    for picture in (desk / "empty" / "a").iterdir():
        picture.unlink()
    shutil.copytree(desk / "photographs", desk / "broken")
    for picture in (desk / "broken").glob("*/1.png"):
        picture.write_bytes(b"no picture")
    predictor = Predictor(bundle)
    predictor.change({name: sorted((desk / "photographs" / name).iterdir()) for name in "ab"})
    predictor.save(desk / "head.npz")
    predictor.head._replace(backbone_sha256="0" * 64).write(desk / "other.npz")
    return desk


@pytest.fixture(autouse=True)
def at_the_desk(desk, monkeypatch):
    monkeypatch.chdir(desk)
    monkeypatch.delenv("ANIL_DATA_DIR", raising=False)


def matches(message: str, expected: str) -> bool:
    """Whether the message is the expected one, with anything in the place of `...`."""
    pattern = ".*".join(re.escape(part) for part in expected.split("..."))
    return re.fullmatch(pattern, message) is not None


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_in_a_line_that_helps(mistake):
    command, expected = MISTAKES[mistake]
    result = CliRunner().invoke(main, command.split())
    assert result.exit_code == 2, (result.output, result.exception)
    assert result.stdout == ""
    message = result.stderr.rstrip().splitlines()[-1]
    assert matches(message, f"Error: {expected}"), message
    assert not Path("out").exists() and not Path("out.npz").exists()


def test_a_download_that_fails_says_where_data_may_lie(monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")

    def fail(self, **_):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    arguments = "train --recipe omniglot-5way-1shot --output out --data-dir data".split()
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert result.stderr.splitlines()[-1] == (
        "Error: omniglot is not in data, and cannot be downloaded: no route to host. "
        "Choose the data_dir that holds it"
    )


def test_there_are_twenty_of_them():
    assert len(MISTAKES) >= 20
