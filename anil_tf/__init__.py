"""ANIL (Almost No Inner Loop) for Keras: few-shot learning that ships to the edge.

Importing this package is cheap: TensorFlow and Keras are imported when a name that needs them is
first used, so that the command line's help and the ONNX-only commands start at once.
"""

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anil_tf.registration import register_with_keras

# On CPUs without AVX-512 TensorFlow leaves oneDNN off, although it makes a training step of a
# small convolutional network about 1.6 times faster. The variable is read at TensorFlow's import.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

__version__ = "0.1.0"

# In a checkout, `training/` and `export/` lie beside this folder; in a wheel they lie inside it.
_ROOT = Path(__file__).resolve().parent.parent
if (_ROOT / "pyproject.toml").is_file():
    __path__.append(str(_ROOT))

register_with_keras()

if TYPE_CHECKING:
    from anil_tf.episodes import EpisodeSampler as EpisodeSampler
    from anil_tf.episodes import SinusoidSampler as SinusoidSampler
    from anil_tf.heads import LinearHead as LinearHead
    from anil_tf.maml import BOIL as BOIL
    from anil_tf.maml import MAML as MAML
    from anil_tf.metrics import EpisodeAccuracy as EpisodeAccuracy
    from anil_tf.metrics import EpisodeAccuracyCI95 as EpisodeAccuracyCI95
    from anil_tf.model import ANIL as ANIL
    from anil_tf.nil import NIL as NIL

_EXPORTS = {
    "ANIL": "anil_tf.model",
    "BOIL": "anil_tf.maml",
    "MAML": "anil_tf.maml",
    "NIL": "anil_tf.nil",
    "LinearHead": "anil_tf.heads",
    "EpisodeSampler": "anil_tf.episodes",
    "SinusoidSampler": "anil_tf.episodes",
    "EpisodeAccuracy": "anil_tf.metrics",
    "EpisodeAccuracyCI95": "anil_tf.metrics",
    "Predictor": "anil_tf.export",  # without TensorFlow; by name alone, for nothing here needs it
}

__all__ = ["__version__", *sorted(_EXPORTS)]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'anil_tf' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
