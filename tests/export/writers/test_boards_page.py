"""What docs/howto/boards.md says: its program compiles, and its tables are those of the files."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from anil_tf import backbones
from anil_tf.acceptance import Temperature
from anil_tf.export import layout
from anil_tf.export.signatures import declare
from anil_tf.export.writers.graphs import InitialHead, build_graphs
from anil_tf.export.writers.litert import Room
from anil_tf.export.writers.tflm import export_tflm
from tests.conftest import ROOT

runtime = pytest.importorskip("anil_tf.export.runtime.tflm")

PAGE = (ROOT / "docs/howto/boards.md").read_text(encoding="utf-8")
PROGRAM = re.search(r"```cpp\n(.*?)```", PAGE, re.S)[1]
HEADERS = (
    "micro/micro_interpreter.h",
    "micro/micro_mutable_op_resolver.h",
    "schema/schema_generated.h",
)
IN_PROGRAM = ("features", "initial_head", "adapt", "predict")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files of the network of the Omniglot recipes, untrained, with space for 25 rows."""
    found = tmp_path_factory.mktemp("boards")
    backbone = backbones.conv4_strided(pooling=False, cosine=True, invert=True)
    head = InitialHead(np.zeros((256, 1), np.float32), np.zeros(1, np.float32), True, 1.0, 1, 5)
    images = np.random.default_rng(0).integers(0, 256, (12, 28, 28, 1), np.uint8)
    signatures = declare((28, 28, 1), "uint8", 256)
    graphs = build_graphs(backbone, head, signatures, temperature=Temperature(30.0, -1.2))
    export_tflm(graphs, found, Room(5, 25), images)
    return found


@pytest.fixture(scope="module")
def functions(folder):
    return {
        name: runtime.MicroFunction(name, (folder / file).read_bytes())
        for name, file in layout.TFLM.items()
    }


def rows_of(title):
    """The cells of the table below a heading, by its first column."""
    text = PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^\| `(\w+)` \|(.*)\|$", text, re.M)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in lines}


def test_the_program_compiles_with_the_headers_of_a_bundle(folder, tmp_path):
    if not shutil.which("c++"):
        pytest.skip("no compiler")
    for name in HEADERS:
        path = tmp_path / "tensorflow/lite" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('#include "tflm.h"\n')
    source = tmp_path / "program.cc"
    source.write_text(PROGRAM)
    subprocess.run(
        ["c++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only",
         "-I", tmp_path, "-I", folder / "tflm", "-I", Path(__file__).parent / "micro", source],
        check=True,
    )  # fmt: skip


def test_the_program_adds_every_operator_that_it_needs(functions):
    wanted = {name for function in IN_PROGRAM for name in functions[function].operators}
    added = {name.upper() for name in re.findall(r"operators\.Add(\w+)\(\)", PROGRAM)}
    assert added == {name.replace("_", "") for name in wanted}
    assert f"MicroMutableOpResolver<{len(wanted)}>" in PROGRAM


def test_one_arena_is_enough_for_the_program(functions):
    assert max(functions[name].arena_bytes for name in IN_PROGRAM) == functions["adapt"].arena_bytes


def test_it_fits_a_small_chip(folder, functions):
    size = {name: (folder / file).stat().st_size for name, file in layout.TFLM.items()}
    assert size["features"] <= 130_000 and functions["features"].arena_bytes <= 32_000
    assert size["adapt"] <= 24_000 and functions["adapt"].arena_bytes <= 64_000
    assert size["predict"] <= 3_000 and functions["predict"].arena_bytes <= 16_000


def test_sizes_are_those_of_the_page(folder, functions):
    for name, (flash, arena, *_) in rows_of("The files").items():
        size = (folder / layout.TFLM[name]).stat().st_size
        # Training makes numbers unlike that were alike, which a file has once.
        assert size == pytest.approx(int(flash.replace(",", "")), rel=0.02)
        assert int(arena.replace(",", "")) == functions[name].arena_bytes


def test_operators_are_those_of_the_page(functions):
    shown = rows_of("Operators")
    for column, name in enumerate(layout.TFLM):
        counts = {row: int(cells[column]) for row, cells in shown.items() if cells[column]}
        assert counts == functions[name].operators
