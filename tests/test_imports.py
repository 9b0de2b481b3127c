"""What a reader imports: every import of the pages and the examples is there, at the face."""

import ast
import importlib
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
FACES = ("anil_tf", "anil_tf.training", "anil_tf.export")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"
PROGRAMS = sorted((ROOT / "examples").rglob("*.py"))


def python_of(path: Path) -> str:
    """The Python of a page, of a notebook or of a program."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.M | re.S))
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        sources = ["".join(cell["source"]) for cell in cells]
        return "\n".join(source for source in sources if not source.startswith("%%"))
    return text


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """The module and the name of each import of this package; no name for a whole module."""
    for node in ast.walk(ast.parse(python_of(path))):
        if isinstance(node, ast.Import):
            found = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found = [(node.module or "", alias.name) for alias in node.names]
        else:
            continue
        yield from (pair for pair in found if pair[0].partition(".")[0] == "anil_tf")


def take(module: str, name: str) -> Any:
    value = importlib.import_module(module)
    if not name:
        return value
    return getattr(value, name, None) or importlib.import_module(f"{module}.{name}")


def handed_on(value: Any) -> list[str]:
    """The names, as `module.name`, under which a face hands the value on."""
    return [
        f"{face}.{name}"
        for face in FACES
        for name in importlib.import_module(face).__all__
        if take(face, name) is value
    ]


def test_the_pages_import_something():
    assert sum(1 for path in PAGES for _ in imports(path)) > 20
    assert list(imports(NOTEBOOK))


@pytest.mark.parametrize(
    ("path", "module", "name"),
    [
        pytest.param(path, *pair, id=f"{path.relative_to(ROOT)}-{'.'.join(pair)}")
        for path in [*PAGES, NOTEBOOK, *PROGRAMS]
        for pair in sorted(set(imports(path)))
    ],
)
def test_an_import_of_a_page_is_taken_from_the_face(path, module, name):
    value = take(module, name)
    if module not in FACES:
        assert not handed_on(value), f"{path.name} imports {name} from {module}"


@pytest.mark.parametrize("face", FACES)
def test_a_face_hides_no_module(face):
    package = importlib.import_module(face)
    for name in set(package.__all__) - {"__version__"}:
        value = getattr(package, name)
        if importlib.util.find_spec(f"{face}.{name}"):
            assert isinstance(value, ModuleType), name
    assert set(package.__all__) <= set(dir(package))


@pytest.mark.parametrize("face", FACES)
def test_a_face_refuses_what_it_does_not_have(face):
    with pytest.raises(AttributeError, match=f"module '{face}' has no attribute 'anything'"):
        importlib.import_module(face).anything  # noqa: B018


@pytest.mark.parametrize(
    "program",
    [
        "import anil_tf; anil_tf.backbones.conv4",
        "import anil_tf; anil_tf.ClassImages.from_arrays; anil_tf.load_model",
        "import anil_tf.training; anil_tf.training.train_recipe, anil_tf.training.train.fit",
        "import anil_tf.training; anil_tf.training.analyze_run, anil_tf.training.analyze.analyze",
    ],
)
def test_a_fresh_process_takes_names_off_the_face(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
