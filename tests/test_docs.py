"""The documentation: it builds without a warning, needs no network, and what it shows runs."""

import functools
import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from anil_tf.cli import COMMANDS, main
from docs import results

FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
# A page that has its browser fetch something from another host.
ELSEWHERE = re.compile(
    r"""<(?:script|img|iframe)\b[^>]*\bsrc=["']?(?:https?:)?//|"""
    r"""<link\b(?=[^>]*\brel=["']?(?:stylesheet|preconnect|preload))[^>]*\bhref=["']?(?:https?:)?//"""
)
# Pages whose Python is run here, a page's blocks one after another.
PAGES = ("maths", "howto/backbone", "howto/regression", "howto/machines")


def blocks(text: str, language: str) -> list[str]:
    return [textwrap.dedent(body) for _, found, body in FENCE.findall(text) if found == language]


@pytest.fixture(scope="module")
def site(repository, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    # The theme's authors tell of another generator on every build.
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(
        command, cwd=repository, env=environment, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_the_site_has_every_page_and_fetches_nothing_from_elsewhere(site):
    pages = {
        page.relative_to(site).as_posix(): page.read_text("utf-8") for page in site.rglob("*.html")
    }
    assert {"index.html", "tutorial/index.html", "maths/index.html"} <= pages.keys()
    assert 'id="anil_tf.model.ANIL"' in pages["api/models/index.html"]
    assert ELSEWHERE.search('<link href="https://host/a.css" rel="stylesheet">')
    assert not [name for name, text in pages.items() if ELSEWHERE.search(text)]


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_runs(repository, tmp_path, monkeypatch, page):
    from anil_tf import ANIL

    monkeypatch.chdir(tmp_path)
    if page != "howto/machines":  # two batches are not worth a graph; a strategy needs one
        eager = functools.partialmethod(ANIL.compile, run_eagerly=True)
        monkeypatch.setattr(ANIL, "compile", eager)
    rng = np.random.default_rng(0)
    namespace: dict[str, Any] = {
        "images": rng.integers(0, 256, (36, 28, 28, 1), np.uint8),
        "labels": np.repeat(np.arange(6), 6),
    }
    sources = blocks((repository / "docs" / f"{page}.md").read_text("utf-8"), "python")
    assert sources
    for source in sources:
        small = source.replace("batches=1000", "batches=2").replace("range(100)", "range(2)")
        exec(compile(small, page, "exec"), namespace)  # our own pages
    if page == "maths":
        _compare_with_the_inner_loop(namespace["adapt"])


def test_the_tables_of_the_results_are_those_of_their_files(repository):
    text = (repository / "docs" / "results.md").read_text("utf-8")
    assert results.render(text, repository / "docs" / "results") == text
    assert {name for _, name, _ in results.BLOCK.findall(text)} >= {"omniglot", "options", "paper"}


def test_a_table_of_results_follows_its_files(tmp_path):
    row = {"section": "Accuracy", "row": "ANIL", "ours": "96.0 %"}
    (tmp_path / "paper.json").write_text(json.dumps([row, {**row, "section": "Speed"}]))
    text = results.render("a\n<!-- table paper -->\nold\n<!-- end -->\nb\n", tmp_path)
    assert "old" not in text and text.count("| ANIL | 96.0 % |") == 2
    assert "**Speed**" in text and text.startswith("a\n") and text.endswith("<!-- end -->\nb\n")


def _compare_with_the_inner_loop(adapt) -> None:
    """The page's NumPy gives the heads that the library gives."""
    import tensorflow as tf

    from anil_tf.inner_loop import adapt_linear
    from anil_tf.losses import cross_entropy

    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(6, 4)), np.array([0, 1, 2, 0, 1, 2], np.int32)
    kernel, bias = rng.normal(size=(4, 3)), rng.normal(size=3)
    kernel_k, bias_k = adapt(features, labels, kernel, bias, 0.3, 5)
    inputs = (tf.constant(value[np.newaxis]) for value in (features, labels, kernel, bias))
    expected = adapt_linear(*inputs, cross_entropy, 0.3, 5).head()
    np.testing.assert_allclose(kernel_k, expected[0][0], rtol=1e-6)
    np.testing.assert_allclose(bias_k, expected[1][0], rtol=1e-6)


def commands(repository: Path) -> Iterator[tuple[str, list[str]]]:
    """Every `anil` command of the pages and of the notebook, as where it stands and its words."""
    texts = {path: path.read_text("utf-8") for path in (repository / "docs").rglob("*.md")}
    for path, text in texts.items():
        shell = (
            "\n".join(blocks(text, "sh")) + "\n" + "\n".join(re.findall(r"`(anil [^`]+)`", text))
        )
        yield from ((path.name, words) for words in _split(shell))
    for cell in _cells(repository):
        for words in _split("".join(cell["source"])):
            yield "tutorial.ipynb", words


def _split(text: str) -> Iterator[list[str]]:
    for line in text.replace("\\\n", " ").splitlines():
        if re.match(r"\s*anil ", line):
            command = re.split(r"\s(?:\||#)", line.strip())[0]
            yield shlex.split(command)[1:]


def _cells(repository: Path) -> list[dict[str, Any]]:
    return json.loads((repository / "docs" / "tutorial.ipynb").read_text("utf-8"))["cells"]


def test_every_command_of_the_docs_is_one_of_anils(repository):
    found = 0
    for where, words in commands(repository):
        if not words or words[0] not in COMMANDS:
            assert words and (words[0].isupper() or words[0].startswith("-")), (where, words)
            continue
        found += 1
        if len(words) == 1:
            continue  # named in a sentence
        # Its options alone: the files of an example are not there.
        context = main.commands[words[0]].make_context(words[0], ["--help"], resilient_parsing=True)
        command = context.command
        assert isinstance(command, click.Command)
        command.make_parser(context).parse_args(list(words[1:]))
    assert found > 20


def test_the_notebook_was_executed_from_top_to_bottom(repository):
    code = [cell for cell in _cells(repository) if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    streams = "".join(
        "".join(output["text"]) for output in outputs if output["output_type"] == "stream"
    )
    assert "named right" in streams
