"""`anil train`, `evaluate` and `datasets` as a user types them; mistakes end in one line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result
from PIL import Image

from anil_tf.cli import main

SMALL = [
    "data.image_shape=[16, 16, 3]",
    "data.split_sizes=[4, 2, 2]",
    "model.backbone.filters=4",
    "model.backbone.blocks=1",
    "training.ways=2",
    "training.shots=1",
    "training.queries=1",
    "training.tasks=2",
    "training.steps=2",
    "training.validation_episodes=2",
    "evaluation.ways=2",
    "evaluation.queries=1",
    "evaluation.episodes=6",
]


def anil(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def train(data: Path, output: Path, *overrides: str) -> Result:
    settings = [word for setting in (*SMALL, *overrides) for word in ("--set", setting)]
    recipe = "mini-imagenet-5way-1shot"
    return anil("train", "--recipe", recipe, "--data-dir", data, "--output", output, *settings)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Eight classes of three random pictures."""
    rng = np.random.default_rng(0)
    for name in "abcdefgh":
        folder = tmp_path / "photographs" / name
        folder.mkdir(parents=True)
        for index in range(3):
            pixels = rng.integers(0, 256, (20, 20, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.jpg")
    return tmp_path / "photographs"


def assert_refused(result: Result, *fragments: str) -> None:
    """One line that holds the fragments, status 2."""
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1 and lines[0] == result.stderr.splitlines()[-1], result.stderr
    assert all(fragment in lines[0] for fragment in fragments), lines[0]


def test_a_run_is_trained_then_evaluated(photographs, tmp_path):
    run, figures = tmp_path / "run", tmp_path / "figures.json"
    result = train(photographs, run)
    assert result.exit_code == 0, result.output
    assert result.stderr.endswith(f"Next: anil evaluate {run} --data-dir {photographs}\n")
    arguments = ["--data-dir", photographs, "--episodes", 3, "--json", figures]
    result = anil("evaluate", run, *arguments)
    assert result.exit_code == 0, result.output
    assert "3 episodes of the test split, 2-way 1-shot, norm=batch, keras" in result.stdout
    assert json.loads(figures.read_text())["episodes"] == 3
    assert result.stderr.endswith(f"Next: anil export {run} --output BUNDLE\n")


def test_unequal_numbers_of_support_images_are_measured(photographs, tmp_path):
    run, figures = tmp_path / "run", tmp_path / "figures.json"
    assert train(photographs, run).exit_code == 0
    before = json.loads((run / "metrics.json").read_text())
    words = ["--data-dir", photographs, "--episodes", 4, "--json", figures]
    result = anil("evaluate", run, *words, "--shots", "1-2")
    assert result.exit_code == 0, result.output
    assert "2-way 1-2-shot" in result.stdout and "support image" in result.stdout
    written = json.loads(figures.read_text())
    assert written["shots"] == [1, 2] and set(written["accuracy_by_shots"]) == {"1", "2"}
    after = json.loads((run / "metrics.json").read_text())
    assert after.pop("evaluations") == [written]
    assert after == before  # the headline is the recipe's protocol


@pytest.mark.parametrize("shots", ["0", "3-1", "1-", "many"])
def test_shots_that_are_neither_a_number_nor_a_range(photographs, tmp_path, shots):
    assert_refused(anil("evaluate", tmp_path, "--shots", shots), shots, "1-10")


def test_a_missing_folder(tmp_path):
    assert_refused(train(tmp_path / "nowhere", tmp_path / "run"), "nowhere")
    assert not (tmp_path / "run").exists()


def test_an_unknown_recipe(tmp_path):
    result = anil("train", "--recipe", "omniglot", "--output", tmp_path / "run")
    assert_refused(result, "omniglot", "glyphs")


def test_a_wrong_key_of_a_recipe(photographs, tmp_path):
    result = train(photographs, tmp_path / "run", "training.stpes=3")
    assert_refused(result, "training.stpes")


def test_too_few_classes(photographs, tmp_path):
    for name in "ab":
        shutil.rmtree(photographs / name)
    result = train(photographs, tmp_path / "run", "training.ways=5")
    assert_refused(result, "train split", "5 classes", "2")
    shutil.rmtree(photographs / "c")
    result = train(photographs, tmp_path / "run", "data.split_sizes=[98, 1, 1]")
    assert_refused(result, "5 classes are too few", "anil export photos")
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("default:The [a-z]+ split has")
def test_fewer_classes_than_ways_make_smaller_episodes(photographs, tmp_path):
    result = train(photographs, tmp_path / "run", "training.ways=5")
    assert result.exit_code == 0, result.output
    assert "train split has 4 classes: its episodes have as many ways" in result.stderr


def test_too_few_images_of_a_class(photographs, tmp_path):
    for name in "abcdefgh":
        (photographs / name / "2.jpg").unlink()
    result = train(photographs, tmp_path / "run", "training.queries=2")
    assert_refused(result, "need 3 images", "with 2")


def test_an_image_that_does_not_decode(photographs, tmp_path):
    for folder in photographs.iterdir():
        (folder / "1.jpg").write_bytes(b"no picture")
    result = train(photographs, tmp_path / "run")
    assert_refused(result, "1.jpg is not an image")
    assert not (tmp_path / "run").exists()


def test_an_output_that_exists(photographs, tmp_path):
    (tmp_path / "run").mkdir()
    assert_refused(train(photographs, tmp_path / "run"), "run exists", "--resume")


def test_a_path_that_is_neither_run_nor_bundle(tmp_path):
    assert_refused(anil("evaluate", tmp_path), "neither a finished run", "nor a bundle")


def test_datasets_names_every_recipe():
    from anil_tf.training.recipe import recipe_names

    output = anil("datasets").stdout
    assert all(name in output for name in recipe_names())


def test_few_classes_are_shown_the_way_out(photographs, tmp_path):
    result = anil("datasets", photographs)
    assert result.exit_code == 0, result.output
    assert "8 classes are few" in result.stdout
    assert "do not train: `anil export photos" in result.stdout and "`anil adapt" in result.stdout
    result = anil("datasets", photographs, "--output", tmp_path / "sheet.png")
    assert result.stderr.endswith("Next: anil export photos --output bundle\n")


def test_a_sheet_shows_the_classes_of_a_folder(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr("anil_tf.training.datasets_cli.FEW_CLASSES", 8)
    sheet = tmp_path / "sheet.png"
    result = anil("datasets", photographs, "--output", sheet)
    assert result.exit_code == 0, result.output
    assert "train: 4 classes, 3 images each\nval:   2 classes" in result.stdout
    assert f"--data-dir {photographs}" in result.stderr and "few" not in result.stdout
    with Image.open(sheet) as drawn:
        colors = len(drawn.convert("RGB").getcolors(10**7))
    assert colors > 1000  # random pictures, not an empty page


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("anil tra", {"train"}),
        ("anil predict --he", {"--head", "--help"}),
        ("anil train --recipe gl", {"glyphs"}),
        ("anil datasets omniglot-5way-1", {"omniglot-5way-1shot"}),
    ],
)
def test_a_shell_completes_commands_options_and_recipes(words, completed):
    words, incomplete = words.rsplit(" ", 1)
    completion = ShellComplete(main, {}, "anil", "_ANIL_COMPLETE")
    found = completion.get_completions(words.split()[1:], incomplete)
    assert {item.value for item in found} == completed


def test_a_shell_gets_clicks_own_script(monkeypatch):
    monkeypatch.setenv("_ANIL_COMPLETE", "bash_source")
    result = CliRunner().invoke(main, prog_name="anil")
    assert "complete -o nosort -F _anil_completion anil" in result.stdout
