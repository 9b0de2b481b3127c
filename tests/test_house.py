"""The rules of the house: which package may import which, and what no file may hold."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

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
