"""What MkDocs does beside its plugins: lays out the packages, and makes a page of the notebook."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

NOTEBOOK = "tutorial.ipynb"
_MAGIC = re.compile(r"^```python\n%%sh.*\n", re.MULTILINE)


def on_config(config: MkDocsConfig) -> None:
    """Links the packages together as a wheel has them: mkdocstrings reads no `__path__`."""
    root = Path(config.config_file_path).parent
    package = root / "build" / "docs" / "anil_tf"
    package.mkdir(parents=True, exist_ok=True)
    for source in (*(root / "anil_tf").iterdir(), root / "training", root / "export"):
        link = package / source.name
        if not link.is_symlink():
            link.symlink_to(source)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the notebook, which is committed with its outputs, as a page of the site's own look."""
    notebook = files.get_file_from_path(NOTEBOOK)
    if notebook is not None:
        text, resources = MarkdownExporter().from_filename(notebook.abs_src_path)
        page = NOTEBOOK.replace(".ipynb", ".md")
        files.append(File.generated(config, page, content=_MAGIC.sub("```sh\n", text)))
        for name, data in resources["outputs"].items():
            files.append(File.generated(config, name, content=data))
    return files
