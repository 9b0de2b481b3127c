"""A saved model is loaded by Keras alone, after a bare `import anil_tf` in a new process."""

import importlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from anil_tf import ANIL, BOIL, MAML, NIL, EpisodeAccuracy, backbones
from anil_tf.losses import cross_entropy
from anil_tf.metrics import EpisodeAccuracyCI95
from anil_tf.nil import Pretrained
from anil_tf.support.registration import PACKAGE, REGISTERED

MODELS = {"ANIL": ANIL, "MAML": MAML, "BOIL": BOIL, "NIL": NIL, "Pretrained": Pretrained}
LOAD = "print(*(type(keras.saving.load_model(path)).__name__ for path in sys.argv[1:]))"
# What an import hook that is done has left: nothing.
LOOK = """
import importlib.resources
print(type(keras.__spec__.loader).__name__)
print((importlib.resources.files("keras") / "__init__.py").is_file())
print([f for f in sys.meta_path if type(f).__module__.startswith("anil_tf")])
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A file of each kind of model, compiled with metrics and, one, with a registered loss."""
    folder = tmp_path_factory.mktemp("models")
    for name, kind in MODELS.items():
        model = kind(backbones.conv4_strided((8, 8, 1), filters=4, blocks=1), norm="support")
        loss = cross_entropy if name == "NIL" else None
        model.compile("adam", loss=loss, metrics=[EpisodeAccuracy(), EpisodeAccuracyCI95()])
        model.optimizer.build(model.trainable_variables)
        model.save(folder / f"{name}.keras")
    layer = keras.layers.Dense(5)
    ANIL(backbones.mlp((3,)), head=layer, loss="cross_entropy").save(folder / "head.keras")
    return [*(folder / f"{name}.keras" for name in MODELS), folder / "head.keras"]


@pytest.mark.parametrize(
    "imports",
    [
        "import anil_tf, keras, sys",
        "import keras, anil_tf, sys",
        "import anil_tf.metrics, keras, sys",
        "import anil_tf, importlib.util, sys\nimportlib.util.find_spec('keras')\nimport keras",
    ],
)
def test_keras_loads_every_model_after_a_bare_import_and_stays_an_ordinary_module(saved, imports):
    program = f"{imports}\n{LOAD}\n{LOOK}"
    command = [sys.executable, "-W", "error::UserWarning", "-c", program, *saved]
    run = subprocess.run(command, capture_output=True, text=True)
    loaded, *looked = run.stdout.splitlines()[-4:]
    assert loaded.split() == [*MODELS, "ANIL"], run.stderr
    assert looked == ["SourceFileLoader", "True", "[]"], run.stderr


def test_the_table_lists_all_that_is_registered():
    for module in REGISTERED:
        importlib.import_module(module)
    registry = keras.saving.get_custom_objects()
    found = {
        (value.__module__, value.__name__)
        for name, value in registry.items()
        if name.startswith(f"{PACKAGE}>")
    }
    assert found == {(module, name) for module, names in REGISTERED.items() for name in names}


def test_a_loaded_model_predicts_as_before(saved):
    model = keras.saving.load_model(saved[0])
    rng = np.random.default_rng(0)
    inputs = {
        "support_x": rng.integers(0, 256, (1, 5, 8, 8, 1)).astype(np.uint8),
        "support_y": np.arange(5, dtype=np.int32)[np.newaxis],
        "query_x": rng.integers(0, 256, (1, 3, 8, 8, 1)).astype(np.uint8),
    }
    copy = ANIL.from_config(model.get_config())
    copy.set_weights(model.get_weights())
    np.testing.assert_allclose(copy(inputs), model(inputs), atol=1e-6)
