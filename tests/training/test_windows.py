"""Sensor data on the command line: trained, exported, verified, adapted and predicted."""

import json
import runpy
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from anil_tf.cli import main


@pytest.fixture(scope="module")
def desk(repository, tmp_path_factory):
    """A folder with synthetic windows, and the run and the bundle that are made of them."""
    desk = tmp_path_factory.mktemp("windows")
    program = repository / "examples" / "windows" / "make_windows.py"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["make_windows.py", str(desk / "windows")])
        runpy.run_path(str(program), run_name="__main__")
    settings = {
        "training.steps": 20,
        "training.checkpoint_every": 20,
        "training.validation_episodes": 8,
        "evaluation.episodes": 20,
        "model.backbone.filters": 16,
        "model.backbone.blocks": 2,
    }
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    run("train", "--recipe", "windows", "--data-dir", desk / "windows", *options,
        "--output", desk / "run")  # fmt: skip
    run("export", desk / "run", "--output", desk / "bundle")
    return desk


def run(*words):
    done = CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_bundle_of_windows_agrees_in_every_runtime(desk):
    run("verify", desk / "bundle", "--json", desk / "parity.json")
    parity = json.loads((desk / "parity.json").read_text())["parity"]
    runtimes = {entry["runtime"] for entry in parity}
    assert {"saved_model", "onnx", "litert", "litert_static"} <= runtimes
    assert all(check["ok"] for entry in parity for check in entry["checks"])


def test_unseen_motions_are_recognised_in_run_and_bundle(desk):
    for place in ("run", "bundle"):
        command = ["evaluate", desk / place, "--data-dir", desk / "windows", "--episodes", 60]
        run(*command, "--json", desk / "figures.json")
        figures = json.loads((desk / "figures.json").read_text())
        assert figures["accuracy"] > 0.8 > 0.4 > figures["accuracy_before_adaptation"]


def test_classes_of_a_folder_are_learned_and_predicted(desk, repository):
    program = runpy.run_path(str(repository / "examples" / "windows" / "make_windows.py"))
    rng = np.random.default_rng(5)
    for name in ("walk", "run", "sit"):
        for index, window in enumerate(program["draw_class"](rng, 8)):
            place = desk / ("learn" if index < 4 else "ask") / name
            place.mkdir(parents=True, exist_ok=True)
            if index % 2:
                np.save(place / f"{index}.npy", window)
            else:
                np.savetxt(place / f"{index}.csv", window, delimiter=",")
    head = desk / "head.npz"
    assert "walk: 4 images" in run("adapt", desk / "bundle", "--support", desk / "learn",
                                   "--output", head)  # fmt: skip
    output = run("predict", desk / "bundle", "--head", head, desk / "ask")
    assert int(output.split("Right: ")[1].split()[0]) >= 10
    one = run("predict", desk / "bundle", "--head", head, desk / "ask" / "walk" / "4.csv")
    assert one.splitlines()[0].count(",") == 2  # a probability of each class


def test_windows_are_drawn(desk):
    run("datasets", desk / "run" / "recipe.toml", "--data-dir", desk / "windows",
        "--output", desk / "sheet.png")  # fmt: skip
    assert (desk / "sheet.png").stat().st_size > 10_000


def test_a_folder_of_windows_is_shown_without_a_recipe(desk, tmp_path):
    assert "train: " in run("datasets", desk / "windows")
    for name in "abcdef":
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "0.npy", np.zeros((9, 3), np.float32))
    done = CliRunner().invoke(main, ["datasets", str(tmp_path)])
    assert done.exit_code == 2
    assert "moments and 6 channels (data.image_shape). Received: [9, 3]" in done.output


def test_pictures_are_told_apart_from_windows(desk):
    words = ["train", "--recipe", "windows", "--data-dir", desk / "windows"]
    words += ["--set", "data.image_shape=[28, 28, 1]", "--output", desk / "other"]
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 2
    assert "moments and channels, such as [128, 6]. Received: [28, 28, 1]" in done.output
