"""MkDocs hooks: copies the packages for mkdocstrings, and makes a page of the notebook."""

import shutil
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

NOTEBOOK = "tutorial.ipynb"


def on_startup(**_: object) -> None:
    """Copies the packages as in a wheel, because mkdocstrings does not read `__path__`."""
    root = Path(__file__).parent.parent
    package = root / "build" / "docs" / "anil_tf"
    shutil.rmtree(package, ignore_errors=True)
    skip = shutil.ignore_patterns("__pycache__")
    for source, target in (("anil_tf", "."), ("training", "training"), ("export", "export")):
        shutil.copytree(root / source, package / target, ignore=skip, dirs_exist_ok=True)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the notebook, which is committed with its outputs, as a page of the site."""
    notebook = files.get_file_from_path(NOTEBOOK)
    if notebook is not None:
        text, resources = MarkdownExporter().from_filename(notebook.abs_src_path)
        page = NOTEBOOK.replace(".ipynb", ".md")
        files.append(File.generated(config, page, content=text))
        for name, data in resources["outputs"].items():
            files.append(File.generated(config, name, content=data))
    return files
