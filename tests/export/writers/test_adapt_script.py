"""`adapt.py` of a bundle, in an environment with NumPy, ONNX Runtime and Pillow and no more."""

import importlib.util
import json
import shutil
import subprocess
import venv
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from anil_tf.cli import main
from anil_tf.datasets.folder import list_classes
from anil_tf.datasets.pictures import read_image
from anil_tf.export import Predictor
from anil_tf.export.head import read_head
from anil_tf.export.manifest import read_manifest
from tests.odd_pictures import write_odd_pictures

NEEDED = ("numpy", "onnxruntime", "PIL")
LIBRARIES = ("numpy.libs", "pillow.libs")  # shared libraries that wheels put beside the packages
BRIGHTNESS = {"dark": 20, "grey": 120, "light": 230}


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of a fresh environment that sees three packages of this one."""
    environment = tmp_path_factory.mktemp("bare")
    venv.create(environment, symlinks=True)
    (site_packages,) = environment.glob("lib/python*/site-packages")
    packages = environment / "packages"
    packages.mkdir()
    for name in NEEDED:
        origin = Path(importlib.util.find_spec(name).origin).parent
        (packages / name).symlink_to(origin)
        for library in LIBRARIES:
            if (origin.parent / library).is_dir() and not (packages / library).exists():
                (packages / library).symlink_to(origin.parent / library)
    (site_packages / "packages.pth").write_text(f"{packages}\n")
    return environment / "bin" / "python"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Three classes, in colours and sizes other than the model's."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, brightness in BRIGHTNESS.items():
        (folder / name).mkdir()
        for index, mode in enumerate(("RGB", "L", "RGBA", "P")):
            pixels = rng.normal(brightness, 8, (40, 36, 3)).clip(0, 255).astype(np.uint8)
            suffix = "jpg" if mode in ("RGB", "L") else "PNG"
            Image.fromarray(pixels).convert(mode).save(folder / name / f"{index}.{suffix}")
    return folder


@pytest.fixture
def adapt(python, bundle, tmp_path):
    """Runs the bundle's script; an environment variable could lead it to this checkout."""

    def call(*arguments, folder=bundle):
        command = [str(part) for part in (python, "-I", folder / "adapt.py", *arguments)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    return call


def anil(*arguments):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output


def assert_same_head(bundle, path, other):
    heads = [read_head(file, read_manifest(bundle)) for file in (path, other)]
    assert heads[0].names == heads[1].names
    for field in ("kernel", "bias", "support_features", "support_labels"):
        ours, theirs = (getattr(head, field) for head in heads)
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def succeeded(process):
    assert process.returncode == 0, process.stderr
    return process.stdout


def assert_refused(process, *fragments):
    assert process.returncode == 2, process.stderr
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: ")
    assert all(fragment in line for fragment in fragments), line


@pytest.mark.parametrize("module", ["tensorflow", "anil_tf", "onnx", "keras"])
def test_the_environment_is_bare(python, tmp_path, module):
    process = subprocess.run(
        [str(python), "-I", "-c", f"import {module}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert f"No module named '{module}'" in process.stderr


def test_it_learns_the_head_that_anil_adapt_does(adapt, bundle, pictures, tmp_path):
    ours, theirs = tmp_path / "ours.npz", tmp_path / "theirs.npz"
    output = succeeded(adapt("learn", pictures, "--output", ours))
    assert "dark: 4 images" in output and "ours.npz" in output
    anil("adapt", bundle, "--support", pictures, "--output", theirs)
    assert_same_head(bundle, ours, theirs)


def test_heads_of_either_are_read_by_the_other(adapt, bundle, pictures, tmp_path):
    ours, theirs = tmp_path / "ours.npz", tmp_path / "theirs.npz"
    files = [pictures / name / "0.jpg" for name in BRIGHTNESS]
    anil("adapt", bundle, "--support", pictures, "--output", theirs, "--steps", 300)
    lines = succeeded(adapt("predict", "--head", theirs, *files)).splitlines()
    assert [line.split(": ")[1].split()[0] for line in lines] == list(BRIGHTNESS)

    succeeded(adapt("learn", pictures, "--output", ours))
    figures = tmp_path / "figures.json"
    anil("predict", bundle, "--head", ours, *files, "--json", figures)
    lines = succeeded(adapt("classify", "--head", ours, *files)).splitlines()
    for row, line in zip(json.loads(figures.read_text()), lines, strict=True):
        shown = [f"{name} {value:.3f}" for name, value in row["probabilities"].items()]
        assert line == f"{row['image']}: {', '.join(shown)}"


def test_classes_are_added_and_removed(adapt, bundle, pictures, tmp_path):
    two, three, again = tmp_path / "two", tmp_path / "three.npz", tmp_path / "again.npz"
    shutil.copytree(pictures, two, ignore=shutil.ignore_patterns("dark"))
    shutil.copytree(pictures / "dark", tmp_path / "one" / "dark")
    succeeded(adapt("learn", two, "--output", tmp_path / "two.npz"))
    succeeded(adapt("learn", tmp_path / "one", "--from", tmp_path / "two.npz", "--output", three))
    anil("adapt", bundle, "--support", pictures, "--output", tmp_path / "all.npz")
    assert_same_head(bundle, three, tmp_path / "all.npz")
    succeeded(adapt("learn", "--from", three, "--remove", "dark", "--output", again))
    assert_same_head(bundle, again, tmp_path / "two.npz")


def test_a_head_of_another_bundle_is_refused(adapt, per_class_bundle, pictures, tmp_path):
    anil("adapt", per_class_bundle, "--support", pictures, "--output", tmp_path / "h.npz")
    with np.load(tmp_path / "h.npz") as arrays:
        other = dict(arrays) | {"backbone_sha256": np.array("f" * 64)}
    np.savez(tmp_path / "other.npz", **other)
    picture = pictures / "dark" / "0.jpg"
    refused = adapt("predict", "--head", tmp_path / "other.npz", picture)
    assert_refused(refused, "other.npz", "another model")
    refused = adapt("learn", pictures, "--from", tmp_path / "other.npz", "--output", "h.npz")
    assert_refused(refused, "other.npz", "another model")


def test_mistakes_are_told_in_one_line(adapt, bundle, pictures, tmp_path, copy_of):
    def learn(folder, *options):
        return adapt("learn", folder, "--output", tmp_path / "head.npz", *options)

    assert_refused(learn(tmp_path / "missing"), "missing")
    (tmp_path / "empty" / "a").mkdir(parents=True)
    assert_refused(learn(tmp_path / "empty"), "class 'a' has no images")
    shutil.copytree(pictures / "dark", tmp_path / "one" / "dark")
    assert_refused(learn(tmp_path / "one"), "2 or more classes, not 1")
    (tmp_path / "one" / "dark" / "z.png").write_bytes(b"not a picture")
    assert_refused(learn(tmp_path / "one"), "z.png is not an image that decodes")
    assert_refused(learn(pictures, "--remove", "red"), "no class 'red'")
    (tmp_path / "text.npz").write_text("not a head")
    assert_refused(learn(pictures, "--from", tmp_path / "text.npz"), "text.npz is not a head")
    assert not (tmp_path / "head.npz").exists()

    copy = copy_of(bundle)
    with (copy / "onnx" / "adapt.onnx").open("ab") as file:
        file.write(b"x")
    changed = adapt("learn", pictures, "--output", "h.npz", folder=copy)
    assert_refused(changed, "adapt.onnx was changed after export")


def test_a_loss_that_rises_is_reported(adapt, bundle, pictures, tmp_path, copy_of):
    copy = copy_of(bundle)
    uphill = json.loads((copy / "manifest.json").read_text()) | {"inner_lr": -0.05}
    (copy / "manifest.json").write_text(json.dumps(uphill))
    process = adapt("learn", pictures, "--output", tmp_path / "head.npz", folder=copy)
    succeeded(process)
    assert process.stderr == "Warning: the loss rose: the head may classify wrongly.\n"


def test_files_left_out_are_one_line_and_numbers_are_in_their_order(adapt, pictures, tmp_path):
    support = tmp_path / "support"
    for number in (0, 1, 2, 10, 11):
        shutil.copytree(pictures / "dark", support / str(number))
    (support / "__MACOSX").mkdir()
    (support / "0" / "._0.jpg").write_bytes(b"\0\5\26\7")
    (support / "0" / "0.jpg").rename(support / "0" / "without_suffix")
    (support / "10" / "notes.txt").write_text("not a picture")
    process = adapt("learn", support, "--output", tmp_path / "h.npz")
    lines = succeeded(process).splitlines()
    assert [line.split(":")[0] for line in lines[:-1]] == ["0", "1", "2", "10", "11"]
    assert all(line.endswith(": 4 images") for line in lines[:-1])
    (line,) = process.stderr.splitlines()
    assert line == f"Warning: Left out 1 file of {support}: no picture: 1 (10/notes.txt)"


def test_too_many_classes_for_a_per_class_head(adapt, per_class_bundle, pictures, tmp_path):
    for index in range(6):
        shutil.copytree(pictures / "dark", tmp_path / "many" / f"class {index}")
    process = adapt(
        "learn", tmp_path / "many", "--output", tmp_path / "h.npz", folder=per_class_bundle
    )
    assert_refused(process, "2 to 5 classes, not 6")


def test_the_script_holds_the_package_s_own_rule_of_pictures(repository, bundle):
    script = (bundle / "adapt.py").read_text()
    assert (repository / "anil_tf" / "datasets" / "pictures.py").read_text() in script
    assert "import anil_tf" not in script and "from anil_tf" not in script


def test_it_reads_odd_pictures_as_the_package_does(python, bundle, tmp_path):
    write_odd_pictures(tmp_path)
    files = sorted(tmp_path.iterdir())
    program = (
        f"import sys; sys.path.insert(0, {str(bundle)!r}); sys.dont_write_bytecode = True\n"
        "import adapt, numpy as np\n"
        "for file in sys.argv[2:]:\n"
        "    pixels = adapt.read_image(adapt.Path(file), (20, 30, 3))\n"
        "    np.save(f'{file}.npy', pixels)\n"
    )
    subprocess.run([str(python), "-I", "-c", program, "", *map(str, files)], check=True)
    for file in files:
        pixels = np.load(f"{file}.npy")
        np.testing.assert_array_equal(pixels, read_image(file, (20, 30, 3)), err_msg=file.name)


def test_it_says_none_of_these(adapt, pictures, tmp_path):
    learned = adapt("learn", pictures, "--output", "head.npz")
    assert learned.returncode == 0, learned.stderr
    picture = pictures / "dark" / "0.jpg"
    predict = ("predict", "--head", "head.npz", picture)
    assert adapt(*predict, "--accept", "0.5").stdout == f"{picture}: none of these\n"
    assert adapt(*predict, "--accept", "0.99").stdout == adapt(*predict).stdout
    beyond = adapt(*predict, "--accept", "1")
    assert beyond.returncode == 2 and "accept must lie in 0.5..0.99" in beyond.stderr


def test_the_share_that_a_head_keeps_is_accepted(adapt, bundle, pictures, tmp_path):
    predictor = Predictor(bundle)
    predictor.change(list_classes(pictures))
    head = predictor.head._replace(accept=0.5)
    head.write(tmp_path / "head.npz")
    picture = pictures / "dark" / "0.jpg"
    learned = adapt("learn", "--from", "head.npz", "--remove", "grey", "--output", "fewer.npz")
    assert learned.returncode == 0, learned.stderr
    for file in ("head.npz", "fewer.npz"):
        said = adapt("predict", "--head", file, picture).stdout
        assert said == f"{picture}: none of these\n"
