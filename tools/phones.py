"""Gets what the tests of the samples for phones compile and run them with.

    python -m tools.phones build/phones

Nothing is installed: all of it lies in the folder, and comes from where this computer's npm and pip
are set up to look.

| folder | has | out of |
|---|---|---|
| `onnxruntime/` | ONNX Runtime's headers, and the classes of its Android library | npm's `com.github.asus4.onnxruntime`, ONNX Runtime's plugin for Unity |
| `onnxruntime-jvm/` | the same classes, for the JVM of this computer, version 1.17 | PyPI's `pyserini`, a search toolkit in Java |
| `kotlin/` | the Kotlin compiler | npm's `kotlin-compiler` |
"""  # noqa: E501

import argparse
import io
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from tools.programs import run

PACKAGES = {"plugin": "com.github.asus4.onnxruntime@0.4.9", "kotlin": "kotlin-compiler@2.4.20"}
TOOLKIT = "pyserini==1.6.0"


def build(folder: Path) -> None:
    """Makes the folder anew.

    Raises:
        RuntimeError: A program or a package is missing.
    """
    partial = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    downloads = partial / "downloads"
    downloads.mkdir(parents=True)

    plugin = _pack(PACKAGES["plugin"], downloads)
    with _member(plugin, "package/Plugins/Android/onnxruntime.aar") as archive:
        _unzip(archive, "headers/", partial / "onnxruntime")
        _unzip(archive, "classes.jar", partial / "onnxruntime")
    with tarfile.open(_pack(PACKAGES["kotlin"], downloads)) as package:
        package.extractall(downloads, filter="data")
    (downloads / "package").rename(partial / "kotlin")

    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", downloads)
    run(*pip, TOOLKIT)
    (toolkit,) = downloads.glob("pyserini-*")
    with _member(toolkit, "-fatjar.jar") as archive:
        _unzip(archive, "ai/onnxruntime/", partial / "onnxruntime-jvm")

    shutil.rmtree(downloads)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _pack(package: str, folder: Path) -> Path:
    """The archive of an npm package."""
    name = run("npm", "pack", "--silent", package, "--pack-destination", folder)
    return folder / name.split()[-1]


def _member(package: Path, ending: str) -> zipfile.ZipFile:
    """The archive within an archive whose name ends so."""
    with tarfile.open(package) as outer:
        (name,) = (name for name in outer.getnames() if name.endswith(ending))
        file = outer.extractfile(name)
        if file is None:
            raise RuntimeError(f"{name} of {package.name} is not a file")
        return zipfile.ZipFile(io.BytesIO(file.read()))


def _unzip(archive: zipfile.ZipFile, start: str, folder: Path) -> None:
    names: Iterable[str] = (name for name in archive.namelist() if name.startswith(start))
    archive.extractall(folder, names)


def main() -> None:
    """Makes the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    try:
        build(parser.parse_args().folder.absolute())
    except RuntimeError as error:
        sys.exit(f"Not to be had here: {error}")


if __name__ == "__main__":
    main()
