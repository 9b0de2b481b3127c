#!/usr/bin/env python3
"""Learn classes from a few images of each, then classify other images.

    python adapt.py learn DIR --output head.npz                  DIR/class-name/*.jpg
    python adapt.py learn DIR --from head.npz --output more.npz  adds the classes in DIR
    python adapt.py learn --from head.npz --remove NAME --output fewer.npz
    python adapt.py predict --head head.npz IMAGE...
    python adapt.py predict --head head.npz --accept 0.95 IMAGE...   or: none of these

This script is in the folder of the model that it runs. Needs: pip install numpy onnxruntime pillow
and, for pictures in HEIC: pip install pillow-heif
A head stores the features of its images, so that classes can be added later.
"""

import argparse
import functools
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

from anil_tf.acceptance import NONE, add_none, find_thresholds
from anil_tf.datasets.pictures import describe_left_out, find_classes, order_names, read_image

FOLDER = Path(__file__).resolve().parent
BATCH = 32


@functools.cache
def manifest() -> dict:
    """The settings of the model."""
    settings = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
    if settings["image_dtype"] != "uint8":
        raise ValueError("this model takes other data than images")
    return settings


@functools.cache
def session(name: str) -> onnxruntime.InferenceSession:
    """One of the graphs in onnx/, opened."""
    file = f"onnx/{name}.onnx"
    data = (FOLDER / file).read_bytes()
    if hashlib.sha256(data).hexdigest() != manifest()["files"][file]["sha256"]:
        raise ValueError(f"{file} was changed after export")
    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])


def features(files: list[Path]) -> np.ndarray:
    """Features float32 [n, D] of n image files."""
    images = np.stack([read_image(file, tuple(manifest()["image_shape"])) for file in files])
    batches = np.split(images, range(BATCH, len(images), BATCH))
    return np.concatenate([session("backbone").run(None, {"image": rows})[0] for rows in batches])


def read_head(file: Path) -> dict[str, np.ndarray]:
    """The arrays of a head that belongs to this model."""
    size = manifest()["feature_size"]
    head = {"support_features": np.zeros((0, size)), "support_labels": np.zeros(0)}
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            head |= dict(arrays)
        fits = str(head["backbone_sha256"]) == manifest()["backbone_sha256"]
        fits = fits and head["kernel"].shape == (size, len(head["names"]))
    except OSError:
        raise
    except Exception as error:  # a damaged or hostile archive can raise almost any
        raise ValueError(f"{file} is not a head: {error}") from error
    if not fits:
        raise ValueError(f"{file} was made with another model than {manifest()['name']!r}")
    return head


def collect(arguments: argparse.Namespace) -> dict[str, np.ndarray]:
    """Features of each class: an earlier head's, without removed classes, and a folder's."""
    classes: dict[str, np.ndarray] = {}
    if arguments.known:
        head = read_head(arguments.known)
        for label, name in enumerate(map(str, head["names"])):
            classes[name] = head["support_features"][head["support_labels"] == label]
            if not len(classes[name]):
                raise ValueError(f"{arguments.known} keeps no features of {name!r} to learn from")
    for name in arguments.remove:
        if classes.pop(name, None) is None:
            raise ValueError(f"there is no class {name!r} to remove; there are {list(classes)}")
    if arguments.folder:
        found, left_out = find_classes(arguments.folder)
        classes |= {name: features(files) for name, files in found.items()}
        if left_out:
            print(f"Warning: {describe_left_out(left_out, arguments.folder)}", file=sys.stderr)
    most = manifest()["ways"] if manifest()["head_init"] == "per_class" else len(classes)
    if not 2 <= len(classes) <= most:
        limit = f"2 to {most}" if len(classes) > most else "2 or more"
        raise ValueError(f"this model learns {limit} classes, not {len(classes)}: {list(classes)}")
    return classes


def learn(arguments: argparse.Namespace) -> None:
    """Fit a head to the collected classes."""
    classes = collect(arguments)
    names = order_names(classes)
    support = np.concatenate([classes[name] for name in names])
    counts = [len(classes[name]) for name in names]
    labels = np.repeat(np.arange(len(names), dtype=np.int32), counts)
    kernel, bias = session("initial_head").run(None, {"ways": np.array(len(names), np.int32)})
    inputs = {"features": support, "labels": labels, "kernel": kernel, "bias": bias}
    inputs["learning_rate"] = np.array(manifest()["inner_lr"], np.float32)
    inputs["steps"] = np.array(manifest()["inner_steps"], np.int32)
    kernel, bias, before, after, _ = session("adapt").run(None, inputs)
    if not np.isfinite(after):
        raise ValueError(f"adaptation failed: the loss is {after}")
    head = {"kernel": kernel, "bias": bias, "names": np.array(names, np.str_)}
    head |= {"support_features": support, "support_labels": labels}
    if arguments.known and "accept" in (earlier := read_head(arguments.known)):
        head["accept"] = earlier["accept"]
    beside = arguments.output.with_name(f".{arguments.output.name}.part")
    with beside.open("wb") as file:
        np.savez(file, **head, backbone_sha256=np.array(manifest()["backbone_sha256"]))
    beside.replace(arguments.output)  # a full disk leaves an earlier head as it was
    for name, count in zip(names, counts, strict=True):
        print(f"{name}: {count} image{'s' if count > 1 else ''}")
    print(f"Loss {before:.4f} before, {after:.4f} after. Wrote {arguments.output}")
    if after > before:
        print("Warning: the loss rose: the head may classify wrongly.", file=sys.stderr)


def predict(arguments: argparse.Namespace) -> None:
    """Print the classes of images, the most likely first."""
    head = read_head(arguments.head)
    names = list(map(str, head["names"]))
    rows = features(arguments.images)
    inputs = {"features": rows, "kernel": head["kernel"], "bias": head["bias"]}
    _, probabilities = session("predict").run(None, inputs)
    accept = head.get("accept") if arguments.accept is None else arguments.accept
    if accept is not None:
        probabilities = reject(rows, probabilities, head, float(accept))
        names.append(NONE)
    for file, row in zip(arguments.images, probabilities, strict=True):
        best = [column for column in np.argsort(-row)[:5] if names[column] != NONE or row[column]]
        shown = [f"{names[column]} {row[column]:.3f}" for column in best]
        print(f"{file}: {NONE if names[best[0]] == NONE else ', '.join(shown)}")


def reject(
    rows: np.ndarray, probabilities: np.ndarray, head: dict[str, np.ndarray], accept: float
) -> np.ndarray:
    """The probabilities with a column for images that resemble no class."""
    if not manifest().get("acceptance"):
        raise ValueError(f"this model has no table of acceptance: it cannot say {NONE!r}")
    ways, labels = len(head["names"]), head["support_labels"]
    counts = np.bincount(labels.astype(int), minlength=ways)
    if not counts.all():
        raise ValueError(f"this head keeps no features of its images: it cannot say {NONE!r}")
    thresholds = find_thresholds(manifest()["acceptance"], counts, accept)
    inputs = {"features": rows, "support_features": head["support_features"]}
    inputs |= {"support_labels": labels, "ways": np.array(ways, np.int32)}
    return add_none(probabilities, session("similarity").run(None, inputs)[0], thresholds)


def main() -> None:
    """Run the command. A user's mistake is one line with exit status 2."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    commands = parser.add_subparsers(required=True, metavar="learn | predict")
    command = commands.add_parser("learn", help="learn the classes of a folder")
    command.add_argument("folder", metavar="DIR", type=Path, nargs="?", help="one folder per class")
    command.add_argument("--from", dest="known", type=Path, metavar="HEAD", help="to add to")
    command.add_argument("--remove", action="append", default=[], metavar="NAME", help="forget it")
    command.add_argument("--output", type=Path, required=True, metavar="HEAD", help="to write")
    command.set_defaults(function=learn)
    command = commands.add_parser("predict", aliases=["classify"], help="classify images")
    command.add_argument("--head", type=Path, required=True, help="written by learn")
    share = "share of images of known classes to accept; the others are none of these"
    command.add_argument("--accept", type=float, metavar="SHARE", help=share)
    command.add_argument("images", metavar="IMAGE", type=Path, nargs="+")
    command.set_defaults(function=predict)
    arguments = parser.parse_args()
    try:
        arguments.function(arguments)
    except (ValueError, OSError, KeyError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
