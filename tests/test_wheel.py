"""The wheel: that it holds the whole tree and nothing else, and works away from the checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

PACKAGES = {"anil_tf": "anil_tf", "training": "anil_tf/training", "export": "anil_tf/export"}
PROJECT_FILES = ("pyproject.toml", "README.md", "LICENSE")


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output of the command, which sees nothing of the checkout and must succeed."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(repository, tmp_path_factory) -> Path:
    """The wheel, built from a copy: a build leaves folders behind that get into the next wheel."""
    folder = tmp_path_factory.mktemp("build")
    copy = folder / "copy"
    for package in PACKAGES:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(repository / package, copy / package, ignore=ignore)
    for name in PROJECT_FILES:
        shutil.copy(repository / name, copy)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, cwd=copy)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The programs of a new environment in which the wheel is installed.

    The dependencies are those of the environment that runs the tests. Its path is added as a bare
    folder, after the installation: an editable install there takes no effect.
    """
    environment = tmp_path_factory.mktemp("installed")
    venv.create(environment, symlinks=True)
    programs = environment / "bin"
    pip = (sys.executable, "-m", "pip", "--python", programs / "python", "install", "--quiet")
    run(*pip, "--no-deps", "--no-index", wheel, cwd=environment)
    paths = sysconfig.get_paths()
    (site_packages,) = environment.glob("lib/python*/site-packages")
    (site_packages / "dependencies.pth").write_text(f"{paths['purelib']}\n{paths['platlib']}\n")
    return programs


def test_the_wheel_holds_the_whole_tree_and_nothing_else(repository, wheel):
    tree = {
        f"{place}/{file.relative_to(repository / folder).as_posix()}"
        for folder, place in PACKAGES.items()
        for file in (repository / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name for name in names if ".dist-info/" not in name} == tree


def test_the_wheel_claims_one_import_name(wheel):
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"anil_tf"}


def test_the_installed_packages_are_those_of_the_wheel(installed, tmp_path):
    program = (
        "import anil_tf, anil_tf.training, anil_tf.export\n"
        "for module in (anil_tf, anil_tf.training, anil_tf.export): print(module.__file__)"
    )
    places = run(installed / "python", "-c", program, cwd=tmp_path).splitlines()
    assert len(places) == 3
    assert all(Path(place).is_relative_to(installed.parent) for place in places), places


def test_the_installed_command_shows_its_help(installed, tmp_path):
    assert "train" in run(installed / "anil", "--help", cwd=tmp_path)


@pytest.mark.slow
def test_the_installed_command_trains(installed, glyphs_data_dir, tmp_path):
    output = tmp_path / "run"
    settings = ("training.steps=2", "training.validation_episodes=2", "evaluation.episodes=2")
    options = [part for setting in settings for part in ("--set", setting)]
    run(
        installed / "anil", "train", "--recipe", "glyphs", *options,
        "--data-dir", glyphs_data_dir, "--output", output,
        cwd=tmp_path,
    )  # fmt: skip
    assert (output / "model.keras").is_file()
    assert (output / "recipe.toml").is_file()
