"""The README keeps its word: its programs run, its commands are commands, its links lead somewhere.

The first program trains for 600 steps; here it runs with the settings of `QUICKLY` instead, and
writes ONNX and a SavedModel alone. What it leaves is what the other programs and commands work on.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

import anil_tf
from anil_tf.cli import main
from anil_tf.export import read_manifest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    path.name: path.read_text(encoding="utf-8")
    for path in (
        ROOT / "README.md",
        ROOT / "docs" / "command_line.md",
        ROOT / "docs" / "results.md",
    )
}
FIRST, KERAS, PREDICTOR, SERVING = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
(JAVASCRIPT,) = re.findall(r"^```js\n(.*?)^```", README, re.M | re.S)
COMMANDS = [
    shlex.split(line, comments=True)
    for page in PAGES.values()
    for line in re.findall(r"^    (anil .*)$", page, re.M)
]
QUICKLY = {
    '"training.steps=600"': '"training.steps=2", "training.validation_episodes=4", '
    '"evaluation.episodes=4"',
    '("run", "bundle")': '("run", "bundle", ["onnx", "saved_model"])',
}


def replaced(program: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        assert program.count(old) == 1, old
        program = program.replace(old, new)
    return program


@pytest.fixture(scope="module")
def desk(glyphs_data_dir, tmp_path_factory) -> Path:
    """A folder where the first program ran, with the pictures that the README speaks of."""
    desk = tmp_path_factory.mktemp("desk")
    (desk / "first.py").write_text(replaced(FIRST, QUICKLY), encoding="utf-8")
    environment = {"PYTHONPATH": str(ROOT), "TFDS_DATA_DIR": str(glyphs_data_dir), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "first.py"], cwd=desk, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (desk / "said").write_text(done.stdout, encoding="utf-8")
    rng = np.random.default_rng(0)
    names = [f"{name}.jpg" for name in ("ann1", "ann2", "bob1", "cat1", "new")]
    names += [f"{folder}/{name}/1.jpg" for folder in ("photos", "more") for name in ("dog", "cat")]
    names += [f"photographs/{name}/{index}.jpg" for name in "abcdef" for index in range(2)]
    for name in names:
        (desk / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 40), np.uint8)).save(desk / name)  # grey
    (desk / "mine.toml").write_text("")
    shutil.copytree(desk / "run", desk / "maml")
    return desk


@pytest.fixture
def at_the_desk(desk, monkeypatch):
    monkeypatch.chdir(desk)


@pytest.mark.slow
def test_the_first_program_trains_adapts_and_exports(desk):
    assert len(FIRST.splitlines()) <= 25
    said = (desk / "said").read_text()
    assert "4 episodes of the test split, 5-way 1-shot" in said
    assert re.search(r"Georgian_U\+\w+ is named \['(Armenian|Georgian)", said)
    with np.load(desk / "letters.npz") as head:
        assert len(head["names"]) == 4


def test_a_keras_user_fits_and_exports_the_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    given = {
        "images": rng.integers(0, 256, (36, 28, 28, 3), np.uint8),
        "labels": np.repeat(np.arange(6), 6),
    }
    few = {"(84, 84, 3)": "(28, 28, 3)", "batches=1000": "batches=1", "tasks=4": "tasks=1"}
    exec(replaced(KERAS, few), given)
    assert given["model"].optimizer.iterations == 1
    assert all(parity.ok for parity in read_manifest(tmp_path / "bundle").parity)


@pytest.mark.slow
def test_the_predictor_learns_from_files(desk, at_the_desk, capsys):
    exec(PREDICTOR, {})
    assert capsys.readouterr().out.startswith("('ann', 'bob', 'cat') [[")
    assert (desk / "head.npz").is_file()


@pytest.mark.slow
def test_the_client_learns_on_a_server(desk):
    from anil_tf.export.manifest import read_manifest
    from anil_tf.export.serving.files import served_name
    from tests.export.serving.server import serve_bundle

    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 1), np.uint8)
    given = {"images": images, "labels": [0, 0, 1, 1], "new_images": images}
    name = served_name(read_manifest(desk / "bundle").name)
    with serve_bundle(name, desk / "bundle") as (_, urls):
        there = {
            "grpc://localhost:8500": urls["grpc"],
            "bundle/manifest.json": str(desk / "bundle" / "manifest.json"),
        }
        exec(replaced(SERVING, there), given)
    assert given["probabilities"].shape == (4, 2)


@pytest.mark.slow
def test_the_javascript_learns_in_node(desk):
    example = ROOT / "examples" / "browser"
    if not shutil.which("node") or not (example / "node_modules" / "onnxruntime-web").is_dir():
        pytest.skip("Node.js or the packages of the page are not installed")
    bundle = json.dumps(str(desk / "bundle") + "/")
    program = f"""
        import {{ readFile }} from "node:fs/promises";
        import * as ort from "onnxruntime-web";
        import {{ FewShot }} from "./fewshot.js";
        const readFromWeb = () => (name) => readFile({bundle} + name);
        const images = [1, 2, 3, 4].map((value) => new Uint8Array(28 * 28).fill(50 * value));
        const image = images[0];
        {JAVASCRIPT}
        console.log(JSON.stringify(Array.from(probabilities)));
    """
    command = ["node", "--input-type=module", "--eval", program]
    done = subprocess.run(command, cwd=example, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(json.loads(done.stdout)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_is_understood(at_the_desk, words):
    """Click takes it: the command, its options and the kinds of their values are there."""
    context = click.Context(main, info_name="anil")
    name, command, rest = main.resolve_command(context, words[1:])
    command.make_context(name, list(rest), parent=context)


@pytest.mark.slow
def test_the_quick_commands_do_what_they_say(desk, at_the_desk):
    readme = re.findall(r"^    (anil .*)$", README, re.M)
    ran = []
    for words in (shlex.split(line, comments=True) for line in readme):
        if words[1] in ("datasets", "adapt", "predict"):
            result = CliRunner().invoke(main, words[1:])
            assert result.exit_code == 0, (words, result.output)
            ran.append(words[1])
    assert ran == ["adapt", "predict", "datasets", "adapt", "predict", "adapt"]
    with np.load(desk / "other.npz") as head:
        assert head["names"].tolist() == ["cat", "dog"]  # cat: forgotten, then learned anew


def test_make_has_the_two_commands(repository):
    targets = re.findall(r"^    make (\S+)", README, re.M)
    assert targets == ["demo", "test"]
    makefile = (repository / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets)


@pytest.mark.parametrize("page", PAGES)
def test_a_link_leads_somewhere(repository, page):
    folder = repository if page == "README.md" else repository / "docs"
    links = re.findall(r"\]\((?!https?://)([^)#]+)", PAGES[page])
    missing = [link for link in links if not (folder / link).exists()]
    assert not missing


def test_the_citation_is_of_this_version(repository):
    citation = yaml.safe_load((repository / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == anil_tf.__version__
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
