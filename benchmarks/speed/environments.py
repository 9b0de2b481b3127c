"""An environment for each peer, created the first time under `build/bench`."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PEERS = {
    "torch": ["torch==2.13.0", "numpy"],
    "jax": ["jax==0.10.2", "jaxlib==0.10.2", "numpy"],
    "jax-gpu": ["jax[cuda12]==0.10.2", "numpy"],  # PyTorch's package has CUDA anyway
}
# Interpreters that are there already, by framework.
GIVEN: dict[str, Path] = {}


def python_of(framework: str, device: str = "cpu") -> Path:
    """The interpreter with the framework; for our own it is the current one."""
    if framework in GIVEN:
        return GIVEN[framework]
    if framework == "ours":
        return Path(sys.executable)
    framework = f"{framework}-{device}" if f"{framework}-{device}" in PEERS else framework
    folder = ROOT / "build" / "bench" / framework
    python, ready = folder / "bin" / "python", folder / "ready"
    if not ready.exists():
        print(f"Making {folder}: the first time it takes a few minutes.", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        subprocess.run([*pip, *PEERS[framework]], check=True)
        ready.touch()
    return python


def variables_of(device: str) -> dict[str, str]:
    """The environment variables of a process that computes on a device."""
    if device == "cpu":
        return {"BENCH_DEVICE": device, "CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
    # Many processes wait side by side: none may take all of the GPU's memory.
    return {
        "BENCH_DEVICE": device,
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }


def name_of_gpu() -> str:
    """The name of the first GPU.

    Raises:
        SystemExit: There is none.
    """
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return listing.splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise SystemExit("--device gpu needs a GPU: nvidia-smi names none") from error


def module_of(framework: str) -> str:
    """The module that runs the framework's variants."""
    return "benchmarks.speed.ours" if framework == "ours" else f"benchmarks.speed.{framework}_peer"
