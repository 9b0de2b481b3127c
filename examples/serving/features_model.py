"""A model of a bundle's backbone alone, whose requests a server may batch.

python features_model.py BUNDLE models/tiny-features

Add it to models.config under its own name, start the server with the three options named in
serving/batching.config, and pass the name to the client as `features_model`. The weights are then
in memory twice: for this model and for the bundle.
"""

import argparse
import os
import shutil
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf

from anil_tf.export import layout


def main() -> None:
    """Writes version 1 of the model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()

    bundle = tf.saved_model.load(arguments.bundle / layout.SAVED_MODEL)
    names = [name for name in bundle.signatures if name.startswith("features")]  # of files too
    signatures = {name: bundle.signatures[name] for name in names}
    module = tf.Module()
    module.weights = bundle.weights
    version = arguments.output / "1"
    tf.saved_model.save(module, version, {**signatures, "serving_default": signatures["features"]})
    # With this file the server batches requests to the model.
    shutil.copy(
        arguments.bundle / layout.SERVING / "batching.config", version / "batching_params.pbtxt"
    )


if __name__ == "__main__":
    main()
