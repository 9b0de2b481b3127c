"""ARM64, the processor of phones and boards, emulated: `make test-arm64` makes what it takes.

The emulator translates ARM64's instructions one by one, so results are those of ARM64. Times are
those of the emulator.
"""

import json
import subprocess
import time

import numpy as np
import pytest
from PIL import Image

from anil_tf.export import Predictor
from anil_tf.export.head import read_head
from anil_tf.export.manifest import read_manifest
from tests.conftest import ROOT

PYTHON = ROOT / "build/arm64/python"
RUNTIMES = ["onnx", "onnx_int8", "litert", "litert_static", "litert_compiled", "litert_int8"]
BRIGHTNESS = {"dark": 20, "grey": 120, "light": 230}

CASES = """
import json, sys
from pathlib import Path
from anil_tf.export.runtime import open_bundle
from anil_tf.export.verify import run_cases
from anil_tf.export.verify.episodes import ReferenceEpisodes

bundle, output, *names = sys.argv[1:]
episodes = ReferenceEpisodes.read(Path(bundle))
found = {}
for name in names:
    runtime = open_bundle(bundle, name)
    cases = run_cases(runtime, episodes.fit(*runtime.room) if runtime.room else episodes)
    found[name] = [case.model_dump() for case in cases]
Path(output).write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def arm64(remark):
    """Runs the emulated Python with arguments; fails where it does."""
    if not PYTHON.exists():
        pytest.skip("no ARM64 Python here: `make test-arm64` makes one")

    def call(*arguments):
        start = time.perf_counter()
        process = subprocess.run(
            [PYTHON, *arguments],
            capture_output=True,
            text=True,
            env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        )
        assert process.returncode == 0, process.stderr[-2000:]
        return process.stdout, time.perf_counter() - start

    machine, _ = call("-c", "import platform; print(platform.machine())")
    assert machine.strip() == "aarch64"
    return call


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Three classes of three pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, brightness in BRIGHTNESS.items():
        (folder / name).mkdir()
        for index in range(3):
            pixels = rng.normal(brightness, 8, (60, 40, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.jpg")
    return folder


@pytest.mark.slow
def test_every_runtime_is_within_the_bounds_of_verify(arm64, bundle, tmp_path, remark):
    _, seconds = arm64("-c", CASES, bundle, tmp_path / "found.json", *RUNTIMES)
    found = json.loads((tmp_path / "found.json").read_text())
    assert list(found) == RUNTIMES
    for name, checks in found.items():
        signatures = {check["check"].split(",")[0] for check in checks}
        assert signatures == {"features", "initial_head", "adapt", "predict", "similarity"}
        assert all(check["ok"] for check in checks), (name, checks)

    def worst(signature):
        return max(
            check["difference"]
            for name, checks in found.items()
            if not name.endswith("int8")
            for check in checks
            if check["check"].split(",")[0] == signature
        )

    remark(
        f"ARM64 (emulated by qemu): {len(RUNTIMES)} runtimes within the bounds of verify, features "
        f"by {worst('features'):.1e}, adapted heads by {worst('adapt'):.1e}, in {seconds:.0f} s"
    )


@pytest.mark.slow
def test_adapt_py_learns_the_head_of_this_processor(arm64, bundle, pictures, tmp_path, remark):
    head = tmp_path / "arm64.npz"
    _, seconds = arm64(bundle / "adapt.py", "learn", pictures, "--output", head)
    learned = read_head(head, read_manifest(bundle))
    predictor = Predictor(bundle)
    files = {name: sorted((pictures / name).iterdir()) for name in BRIGHTNESS}
    predictor.learn(
        [file for name in files for file in files[name]],
        [name for name in files for _ in files[name]],
    )
    differences = {
        part: np.abs(getattr(learned, part) - getattr(predictor.head, part)).max()
        for part in ("support_features", "kernel", "bias")
    }
    assert learned.names == predictor.head.names
    assert max(differences.values()) < 1e-5, differences
    remark(
        f"ARM64 (emulated by qemu): adapt.py learned in {seconds:.0f} s, features within "
        f"{differences['support_features']:.1e} and kernels within {differences['kernel']:.1e}"
    )
