"""What a run survives: a kill, a lost worker, a full disk. See `docs/reliability.md`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tools.reliability.kills import kill_and_resume
from tools.reliability.small import make_classes, run, same_run, train_command
from tools.reliability.workers import largest_difference, lose_a_worker, mirrored

SETTINGS = [
    "training.steps=40",
    "training.checkpoint_every=8",
    "model.head_init=per_class",
    "model.backbone.blocks=1",
    "model.backbone.cosine=true",  # has no ReLU: rounding cannot decide what passes one
    "model.inner_steps=1",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_classes(tmp_path_factory.mktemp("classes") / "data")


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    """A run of one process. Not to be changed."""
    output = tmp_path_factory.mktemp("undisturbed") / "run"
    finished = run(train_command(data, output, *SETTINGS))
    assert finished.returncode == 0, finished.stderr
    return output


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(data, undisturbed, tmp_path):
    kill_and_resume(data, tmp_path / "run", 1, SETTINGS, longest=0.5)
    assert same_run(undisturbed, tmp_path / "run")


@pytest.mark.slow
def test_two_workers_train_as_one_and_a_lost_one_ends_the_other(data, undisturbed, tmp_path):
    lost = lose_a_worker(data, tmp_path / "run", SETTINGS)
    assert lost["status"] == 2 and len(lost["error"]) == 1
    assert "Another worker is gone" in lost["error"][0]
    assert largest_difference(undisturbed, tmp_path / "run") < 1e-5
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["train"]["steps"] == 40


@pytest.mark.slow
def test_two_logical_devices_train_as_one(data, undisturbed, tmp_path):
    finished = run(mirrored(train_command(data, tmp_path / "run", *SETTINGS)))
    assert finished.returncode == 0, finished.stderr
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["devices"] == ["/device:CPU:0", "/device:CPU:1"]
    assert largest_difference(undisturbed, tmp_path / "run") < 1e-5


# A command on a disk that it fills, and again on the same disk made larger. What each leaves is
# copied: the disk goes with the namespace that it is mounted in.
FILL = """
disk=$1 copies=$2 small=$3; shift 3
mount -t tmpfs none "$disk" || exit
for size in "$small" 50m; do
  mount -o remount,size="$size" "$disk" || exit
  "$@"; echo "status $?"
  cp -r "$disk" "$copies/$size"
done
"""


def fill(command: list[str], disk: Path, copies: Path, size: str) -> str:
    """What both runs print; the copies are `copies/SIZE` and `copies/50m`."""
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        subprocess.run([*namespace, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no namespaces here in which a small disk could be mounted")
    for folder in (disk, copies):
        folder.mkdir()
    finished = run([*namespace, "sh", "-c", FILL, "sh", str(disk), str(copies), size, *command])
    return finished.stdout + finished.stderr


@pytest.mark.slow
def test_a_full_disk_ends_training_and_room_on_it_lets_it_go_on(data, undisturbed, tmp_path):
    disk, copies = tmp_path / "disk", tmp_path / "copies"
    command = train_command(data, disk / "run", *SETTINGS, options=["--resume"])
    output = fill(command, disk, copies, "160k")
    assert "status 2" in output and "status 0" in output, output
    (error,) = [line for line in output.splitlines() if line.startswith("Error: ")]
    assert "No space left on device" in error and str(disk / "run") in error
    names = [path.name for path in (copies / "160k" / "run" / "checkpoints").iterdir()]
    assert names and all(name.endswith(".keras") and name[0] != "." for name in names)
    assert same_run(undisturbed, copies / "50m" / "run")


@pytest.mark.slow
def test_a_full_disk_ends_an_export_and_leaves_nothing_of_it(undisturbed, tmp_path):
    disk, copies = tmp_path / "disk", tmp_path / "copies"
    export = [sys.executable, "-m", "anil_tf", "export", str(undisturbed)]
    output = fill([*export, "--output", str(disk / "bundle")], disk, copies, "160k")
    assert "status 2" in output and "status 0" in output, output
    (error,) = [line for line in output.splitlines() if line.startswith("Error: ")]
    assert "No space left on device" in error and str(disk) in error
    assert not list((copies / "160k").iterdir())
    assert (copies / "50m" / "bundle" / "manifest.json").is_file()
