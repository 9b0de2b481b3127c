"""The tutorial and the demo in a reader's own folder: what they did not make stays as it is."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def first_cell(repository, tmp_path):
    """Runs the cell in a folder as a notebook does, with PHOTOS or without."""
    cells = json.loads((repository / "docs" / "tutorial.ipynb").read_text("utf-8"))["cells"]
    code = next("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    program = tmp_path / "cell.py"
    program.write_text(code)

    def run(folder: Path, photos: str | None = None) -> subprocess.CompletedProcess[str]:
        paths = [str(repository), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        environment["IPYTHONDIR"] = str(tmp_path / "ipython")
        environment.pop("PHOTOS", None)
        environment.pop("VIRTUAL_ENV", None)  # IPython warns of another one
        if photos is not None:
            environment["PHOTOS"] = photos
        command = [sys.executable, "-m", "IPython", "--colors=NoColor", str(program)]
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )

    return run


def make_photographs(folder, classes, pictures=9):
    for number in range(classes):
        (folder / f"class {number}").mkdir(parents=True)
        for index in range(pictures):
            image = Image.fromarray(np.full((8, 8, 3), index, np.uint8))
            image.save(folder / f"class {number}" / f"{index:04d}.png")


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def reader(tmp_path):
    """A reader's folder in which every name that the tutorial uses is taken already."""
    folder = tmp_path / "reader"
    make_photographs(folder / "photos", 5)
    for name in ("learn", "ask", "bundle", "on-the-phone", "anil-tutorial"):
        make_photographs(folder / name, 1, 2)
    return folder


@pytest.mark.parametrize("photos", ["photos", None])
def test_a_readers_files_stay_as_they_are(first_cell, reader, photos):
    before = files(reader)
    for _ in range(2):  # a second time it takes another folder
        done = first_cell(reader, photos)
        assert done.returncode == 0, done.stderr
        assert "to be learned: " in done.stdout
    after = files(reader)
    assert {path: after.get(path) for path in before} == before
    made = {path.relative_to(reader).parts[0] for path in after.keys() - before.keys()}
    assert made == {"anil-tutorial-2", "anil-tutorial-3"}


@pytest.mark.parametrize(("classes", "pictures", "asked"), [(2, 4, 1), (3, 30, 6)])
def test_what_is_asked_was_not_learned(first_cell, tmp_path, classes, pictures, asked):
    make_photographs(tmp_path / "mine", classes, pictures)
    reader = tmp_path / "reader"
    reader.mkdir()
    assert first_cell(reader, "../mine").returncode == 0
    for number in range(classes):
        learned, new = (
            {path.name for path in (reader / "anil-tutorial" / part / f"class {number}").iterdir()}
            for part in ("learn", "ask")
        )
        assert (len(learned), len(new)) == (3, asked) and not learned & new


@pytest.mark.parametrize(
    ("classes", "pictures", "photos", "said"),
    [
        (1, 9, "mine", "mine has one class. There must be two or more"),
        (3, 3, "mine", "Each class needs 4 pictures: 3 to learn from and one to ask about"),
        (3, 3, "mine", "There are fewer of class 0, class 1, class 2"),
        (3, 9, "elsewhere", "PHOTOS cannot be read: "),
        (3, 9, ".", "must lie apart from this notebook"),
        (3, 9, "anil-tutorial/photos", "must lie apart from this notebook"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(
    first_cell, tmp_path, classes, pictures, photos, said
):
    reader = tmp_path / "reader"
    make_photographs(reader / "mine", classes, pictures)
    (reader / "anil-tutorial" / "photos").mkdir(parents=True)
    before = files(reader)
    done = first_cell(reader, photos)
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()  # and no traceback
    assert said in line and not done.stderr
    assert files(reader) == before and not (reader / "anil-tutorial-2").exists()


def test_the_demo_refuses_a_folder_that_it_did_not_make(repository, tmp_path):
    make_photographs(tmp_path / "mine" / "run", 2, 2)
    before = files(tmp_path)
    command = [sys.executable, str(repository / "examples" / "demo.py"), "--output", "mine"]
    environment = os.environ | {"PYTHONPATH": str(repository)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "mine exists, and this demo did not make it" in done.stderr
    assert files(tmp_path) == before


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
@pytest.mark.parametrize("made_by_the_demo", [True, False])
def test_make_clean_leaves_what_a_user_keeps_beside_the_demo(
    repository, tmp_path, made_by_the_demo
):
    shutil.copy(repository / "Makefile", tmp_path)
    theirs = [tmp_path / "demo" / "mine.npz", tmp_path / "demo" / "mug" / "1.jpg"]
    demos = [tmp_path / "demo" / name for name in ("run/model.keras", "answers.png")]
    for path in (*theirs, *demos):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    if made_by_the_demo:
        (tmp_path / "demo" / ".made-by-the-demo").touch()
    before = files(tmp_path)
    subprocess.run(["make", "clean"], cwd=tmp_path, capture_output=True, check=False)
    removed = {*demos, tmp_path / "demo" / ".made-by-the-demo"} if made_by_the_demo else set()
    assert files(tmp_path).keys() == before.keys() - removed
