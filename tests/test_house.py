"""The rules of the house: which package may import which, and what no file may hold."""

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGES = {"anil_tf": "anil_tf", "training": "anil_tf.training", "export": "anil_tf.export"}
# Folder, what it imports as, and the packages that it must not import.
RULES = [
    ("anil_tf", "anil_tf", ("anil_tf.training", "anil_tf.export")),
    ("export", "anil_tf.export", ("anil_tf.training",)),
]


def imported_names(source: str) -> Iterator[str]:
    """Every absolute name that the source imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize(
    "source",
    [
        "import anil_tf.training.train",
        "from anil_tf import training",
        "from anil_tf.training.recipe import Recipe",
        "def late():\n    import anil_tf.training as training",
    ],
)
def test_the_import_rule_sees_every_way_to_import(source):
    assert any(is_within(name, ("anil_tf.training",)) for name in imported_names(source))


@pytest.mark.parametrize(("folder", "package", "forbidden"), RULES)
def test_data_flows_one_way(repository, folder, package, forbidden):
    files = sorted((repository / folder).rglob("*.py"))
    assert files
    wrong = [
        f"{file.relative_to(repository)} imports {name}"
        for file in files
        for name in imported_names(file.read_text(encoding="utf-8"))
        if is_within(name, forbidden)
    ]
    assert not wrong, f"{package}: {wrong}"


def test_the_top_floors_can_be_seen_at_a_glance(repository):
    assert len(list((repository / "export").glob("*.py"))) <= 10
    assert len(list((repository / "training").glob("*.py"))) <= 14


def without_type_checking(source: str) -> str:
    """The source without its `if TYPE_CHECKING:` blocks, which nothing runs."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name):
            if node.test.id == "TYPE_CHECKING":
                node.body = [ast.Pass()]
    return ast.unparse(tree)


def import_graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """Which of the modules each module imports; a late import counts."""
    graph = {}
    for module, source in sources.items():
        names = {name for name in imported_names(without_type_checking(source))}
        # `from a import b` is of the module a.b where there is one, else of a.
        deepest = {name for name in names if name in sources}
        parents = {name for name in deepest if any(n.startswith(f"{name}.") for n in deepest)}
        graph[module] = {name for name in deepest - parents if name != module}
    return graph


def find_circle(graph: dict[str, set[str]]) -> list[str]:
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def module_sources(repository: Path) -> dict[str, str]:
    """The source of every module, by the name that it imports as."""
    sources = {}
    for folder, package in PACKAGES.items():
        for file in (repository / folder).rglob("*.py"):
            parts = file.relative_to(repository / folder).with_suffix("").parts
            name = ".".join([package, *(part for part in parts if part != "__init__")])
            sources[name] = file.read_text(encoding="utf-8")
    return sources


def room(module: str) -> str:
    """The file or the folder at the top of its package that a module is of or in."""
    package = max((name for name in PACKAGES.values() if is_within(module, (name,))), key=len)
    rest = module.removeprefix(package).strip(".")
    return f"{package}.{rest.partition('.')[0]}"


def test_a_circle_is_found():
    sources = {
        "a": "from a import b",
        "a.b": "def late():\n    import a.c",
        "a.c": "from a.b import x",
    }
    assert find_circle(import_graph(sources)) == ["a.b", "a.c", "a.b"]
    sources["a.c"] = "if TYPE_CHECKING:\n    from a.b import x"
    assert not find_circle(import_graph(sources))


def test_no_files_import_each_other_in_a_circle(repository):
    graph = import_graph(module_sources(repository))
    assert len(graph) > 80 and sum(map(len, graph.values())) > 200
    assert not find_circle(graph)


def test_no_folders_import_each_other_in_a_circle(repository):
    rooms: dict[str, set[str]] = {}
    for module, imported in import_graph(module_sources(repository)).items():
        rooms.setdefault(room(module), set()).update(map(room, imported))
    assert {"anil_tf.support", "anil_tf.export.runtime", "anil_tf.training.report"} <= rooms.keys()
    assert not find_circle({name: found - {name} for name, found in rooms.items()})


@pytest.mark.parametrize("module", ["anil_tf", "anil_tf.cli", "anil_tf.training", "anil_tf.export"])
def test_importing_a_package_is_cheap(module):
    program = f"import sys, {module}; print({{'tensorflow', 'keras'}} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.strip() == "set()", run.stdout + run.stderr


def project_files(repository: Path) -> Iterator[tuple[str, str]]:
    """Path and text of every text file that is, or is about to be, under version control."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listing = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
    for name in listing.stdout.split("\0"):
        file = repository / name
        if name and file.is_file():
            try:
                yield name, file.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue  # an image or another binary


@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        ("a path of one machine", r"(?<![\w.])/(?:work|root|tmp)/\w"),
        ("a host of a package registry", r"(?:pypi|npmjs|pythonhosted)\.(?:org|com)"),
    ],
)
def test_no_file_records(repository, what, pattern):
    found = [
        f"{name}: {match.group()}"
        for name, text in project_files(repository)
        for match in re.finditer(pattern, text)
    ]
    assert not found, f"{what}: {found}"
