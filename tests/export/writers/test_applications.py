"""Which `keras.applications` can be exported: their table, which `tools.applications` makes.

An export of all of them takes hours. Here two are exported again. Each kind of layer of the others
is exported in test_layers.py.
"""

import pytest

from anil_tf import applications
from tests.export.writers.formats import RUNS
from tests.export.writers.test_layers import BOTH, LAYERS, make_backbone
from tools.applications import kinds_of, read_table, render, try_application

TABLE = read_table()


def test_every_application_of_keras_has_a_row():
    named = {name.removeprefix(applications.PREFIX) for name in applications.names()}
    assert TABLE.keys() == named, "python -m tools.applications NAME writes a row"


def test_every_kind_of_layer_of_an_application_is_exported():
    exported = [make_backbone(part) for part, formats in LAYERS.values() if formats == BOTH]
    known = {kind for backbone in exported for kind in kinds_of(backbone)}
    unknown = {name: set(row.kinds) - known for name, row in TABLE.items()}
    assert not {name: kinds for name, kinds in unknown.items() if kinds}


def test_every_format_of_the_table_agrees_with_keras():
    for row in TABLE.values():
        assert row.agrees and row.formats.keys() == RUNS.keys(), row


@pytest.mark.parametrize("name", ["MobileNet", "MobileNetV3Small"])
def test_an_application_is_exported_as_its_row_says(name):
    row = try_application(name)
    assert row.kinds == TABLE[name].kinds
    assert row.agrees and row.formats.keys() == RUNS.keys(), row


def test_the_page_shows_the_table(repository):
    page = (repository / "docs" / "howto" / "layers.md").read_text(encoding="utf-8")
    assert render(page, TABLE) == page
