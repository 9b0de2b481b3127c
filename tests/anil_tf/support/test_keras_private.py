"""Private names of Keras and TensorFlow: the installed versions still have every one of them."""

import re

import keras
import pytest
import tensorflow as tf
from tensorflow.python.framework.ops import gradient_registry

from anil_tf.support.keras_private import PRIVATE_NAMES


@pytest.fixture(scope="module")
def owners():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")  # makes the attributes that only a compiled model has
    return {
        "keras.Model": model,
        "keras.metrics.Metric": keras.metrics.MeanSquaredError(),
        "tf.distribute.StrategyExtended": tf.distribute.MultiWorkerMirroredStrategy().extended,
        "gradient_registry": gradient_registry,
    }


@pytest.mark.parametrize("name", PRIVATE_NAMES)
def test_a_private_name_that_vanished_is_named(owners, name):
    owner, _, attribute = name.rpartition(".")
    version = f"Keras {keras.__version__}, TensorFlow {tf.__version__}"
    assert hasattr(owners[owner], attribute), (
        f"{name} is gone from {version}: {PRIVATE_NAMES[name]}"
    )


def test_no_other_file_uses_a_private_name(repository):
    attributes = "|".join(name.rpartition(".")[2] for name in PRIVATE_NAMES)
    found = [
        str(file.relative_to(repository))
        for folder in ("anil_tf", "training", "export")
        for file in sorted((repository / folder).rglob("*.py"))
        if file.name != "keras_private.py"
        and re.search(rf"\.(?:{attributes})\b|tensorflow\.python", file.read_text(encoding="utf-8"))
    ]
    assert not found
