"""Makes an ARM64 Python with the runtimes of a phone or a board, emulated on this computer.

    python -m tools.arm64 build/arm64
    build/arm64/python -c "import platform; print(platform.machine())"

Debian's packages give Python, its libraries and qemu; PyPI's wheels for ARM64 give ONNX Runtime,
LiteRT, NumPy and Pillow, at the versions of constraints.txt. They come from where this computer's
apt and pip are set up to look. Nothing is installed: all of it lies in the folder.

qemu translates each instruction for this processor. So results are those of ARM64's instructions,
and times say nothing about a phone.
"""

import argparse
import re
import shutil
import sys
from pathlib import Path

from tools.programs import run

SUITE = "trixie"  # its qemu is 10.0; that of the release before, 7.2, crashes on both runtimes
PYTHON = "3.13"  # that of the suite
LIBC = 41  # the suite has glibc 2.41, which runs wheels for any earlier one
ROOT = Path(__file__).resolve().parent.parent

LAUNCHER = f"""#!/bin/sh
# Python {PYTHON} for ARM64, emulated by qemu.
here=$(dirname "$(readlink -f "$0")")
exec "$here/qemu-aarch64" -L "$here/root" "$here/root/usr/bin/python{PYTHON}" "$@"
"""


class Apt:
    """Debian's packages for ARM64, in a state of its own: the computer's is not touched.

    Args:
        folder: Folder for its lists and packages.

    Raises:
        RuntimeError: This computer's apt has no source of Debian's packages.
    """

    def __init__(self, folder: Path) -> None:
        self._packages = folder / "cache/archives"
        for name in ("lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        source = f"deb [signed-by={_keyring()}] {_debian()} {SUITE} main\n"
        (folder / "sources.list").write_text(source)
        settings = {
            "APT::Architecture": "arm64",
            "APT::Architectures": "arm64,amd64",
            "APT::Sandbox::User": "root",
            "Dir::Etc::sourcelist": folder / "sources.list",
            "Dir::Etc::sourceparts": "-",
            "Dir::State": folder,
            "Dir::State::status": folder / "status",
            "Dir::Cache": folder / "cache",
        }
        self._options = [part for name in settings for part in ("-o", f"{name}={settings[name]}")]
        self._call("update")

    def _call(self, *arguments: str) -> None:
        run("apt-get", "-qq", *self._options, *arguments, cwd=self._packages)

    def unpack(self, folder: Path, *names: str) -> list[str]:
        """Unpack packages and all that they depend on; the names of their files."""
        self._call("install", "--download-only", "--yes", "--no-install-recommends", *names)
        return self._unpack_all(folder)

    def unpack_alone(self, folder: Path, name: str) -> list[str]:
        """Unpack a package without what it depends on; the name of its file."""
        self._call("download", name)
        return self._unpack_all(folder)

    def _unpack_all(self, folder: Path) -> list[str]:
        files = sorted(self._packages.glob("*.deb"))
        for file in files:
            run("dpkg-deb", "--extract", file, folder)
            file.unlink()
        return [file.name for file in files]


def build(folder: Path) -> None:
    """Makes the folder anew: `python` (a program), `versions.txt`, and what they need.

    Raises:
        RuntimeError: A program, a source of packages or a package is missing.
    """
    partial = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    root = partial / "root"
    root.mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")  # as in all of Debian, which a package there does
    apt = Apt(partial / "apt")
    versions = apt.unpack(
        root, f"python{PYTHON}-minimal", f"libpython{PYTHON}-stdlib", "libstdc++6"
    )
    versions += apt.unpack_alone(partial / "qemu", "qemu-user:amd64")
    (partial / "qemu/usr/bin/qemu-aarch64").rename(partial / "qemu-aarch64")
    for rest in ("apt", "qemu"):
        shutil.rmtree(partial / rest)

    packages = root / "usr/lib/python3/dist-packages"
    tags = ["manylinux2014_aarch64", *(f"manylinux_2_{n}_aarch64" for n in range(17, LIBC + 1))]
    run(
        sys.executable, "-m", "pip", "install", "--quiet", "--target", packages,
        "--only-binary", ":all:", "--implementation", "cp", "--python-version", PYTHON,
        *(f"--platform={tag}" for tag in tags),
        "--constraint", ROOT / "constraints.txt",
        "numpy", "pillow", "onnxruntime", "ai-edge-litert", "pydantic",
    )  # fmt: skip
    versions += sorted(path.stem for path in packages.glob("*.dist-info"))
    launcher = partial / "python"
    launcher.write_text(LAUNCHER)
    launcher.chmod(0o755)
    machine = run(launcher, "-c", "import platform; print(platform.machine())")
    if machine.strip() != "aarch64":
        raise RuntimeError(f"the emulated Python says that it runs on {machine.strip()}")
    (partial / "versions.txt").write_text("\n".join(versions) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _debian() -> str:
    """Where this computer's apt finds Debian's packages."""
    found = run("apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)")
    if match := re.search(r"^Debian (\S+)$", found, re.M):
        return match[1]
    raise RuntimeError("apt has no source of Debian's packages here. Run it on Debian")


def _keyring() -> Path:
    keyring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    if not keyring.exists():
        raise RuntimeError(f"there is no {keyring}: apt-get install debian-archive-keyring")
    return keyring


def main() -> None:
    """Makes the folder and shows what is in it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    try:
        build(folder.absolute())
    except RuntimeError as error:
        sys.exit(f"No ARM64 here: {error}")
    print((folder / "versions.txt").read_text(), end="")


if __name__ == "__main__":
    main()
