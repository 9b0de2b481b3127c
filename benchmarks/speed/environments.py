"""An environment for each peer, created the first time under `build/bench`."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PEERS = {
    "torch": ["torch==2.13.0", "numpy"],
    "jax": ["jax==0.10.2", "jaxlib==0.10.2", "numpy"],
}


def python_of(framework: str) -> Path:
    """The interpreter with the framework; for our own it is the current one."""
    if framework == "ours":
        return Path(sys.executable)
    folder = ROOT / "build" / "bench" / framework
    python, ready = folder / "bin" / "python", folder / "ready"
    if not ready.exists():
        print(f"Making {folder}: the first time it takes a few minutes.", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        subprocess.run([*pip, *PEERS[framework]], check=True)
        ready.touch()
    return python


def module_of(framework: str) -> str:
    """The module that runs the framework's variants."""
    return "benchmarks.speed.ours" if framework == "ours" else f"benchmarks.speed.{framework}_peer"
