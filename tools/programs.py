"""Runs other programs."""

import subprocess
from pathlib import Path


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a program; its output.

    Raises:
        RuntimeError: It is not installed, or it failed.
    """
    try:
        process = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise RuntimeError(f"there is no program {command[0]}") from error
    if process.returncode:
        raise RuntimeError(f"{command[0]} failed: {process.stderr.strip()[-2000:]}")
    return process.stdout
