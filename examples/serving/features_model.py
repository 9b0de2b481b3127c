"""A model of a bundle's backbone alone, whose requests a server may batch.

python features_model.py BUNDLE models/tiny-features

Add it to models.config under a name of its own, start the server with the three options that
serving/batching.config names, and give the client that name as `features_model`. The weights are
then in memory twice: once for this model, once for the bundle's own.
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
    features = bundle.signatures["features"]
    module = tf.Module()
    module.weights = bundle.weights
    version = arguments.output / "1"
    tf.saved_model.save(module, version, {"features": features, "serving_default": features})
    # Where this file is, the server batches the model.
    shutil.copy(
        arguments.bundle / layout.SERVING / "batching.config", version / "batching_params.pbtxt"
    )


if __name__ == "__main__":
    main()
