"""ANIL (Almost No Inner Loop) for Keras: few-shot learning that ships to the edge.

Importing this package is cheap: TensorFlow and Keras are imported when a name that needs them is
first used, so that the command line's help and the ONNX-only commands start at once.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from anil_tf.support.lazy import hand_on
from anil_tf.support.registration import register_with_keras

# On CPUs without AVX-512 TensorFlow leaves oneDNN off, although it makes a training step of a
# small convolutional network about 1.6 times faster. The variable is read at TensorFlow's import.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

__version__ = "0.2.0"

# In a checkout, `training/` and `export/` lie beside this folder; in a wheel they lie inside it.
_ROOT = Path(__file__).resolve().parent.parent
if (_ROOT / "pyproject.toml").is_file():
    __path__.append(str(_ROOT))

register_with_keras()

if TYPE_CHECKING:
    from anil_tf import backbones as backbones
    from anil_tf.datasets.images import ClassImages as ClassImages
    from anil_tf.episodes import EpisodeSampler as EpisodeSampler
    from anil_tf.episodes import SinusoidSampler as SinusoidSampler
    from anil_tf.heads import LinearHead as LinearHead
    from anil_tf.maml import BOIL as BOIL
    from anil_tf.maml import MAML as MAML
    from anil_tf.metrics import EpisodeAccuracy as EpisodeAccuracy
    from anil_tf.metrics import EpisodeAccuracyCI95 as EpisodeAccuracyCI95
    from anil_tf.metrics import EpisodeMeanSquaredError as EpisodeMeanSquaredError
    from anil_tf.model import ANIL as ANIL
    from anil_tf.nil import NIL as NIL
    from anil_tf.saving import load_model as load_model
    from anil_tf.views import with_views as with_views

_TARGETS = {
    "ANIL": "anil_tf.model:ANIL",
    "BOIL": "anil_tf.maml:BOIL",
    "MAML": "anil_tf.maml:MAML",
    "NIL": "anil_tf.nil:NIL",
    "LinearHead": "anil_tf.heads:LinearHead",
    "backbones": "anil_tf.backbones",
    "ClassImages": "anil_tf.datasets.images:ClassImages",
    "EpisodeSampler": "anil_tf.episodes:EpisodeSampler",
    "SinusoidSampler": "anil_tf.episodes:SinusoidSampler",
    "EpisodeAccuracy": "anil_tf.metrics:EpisodeAccuracy",
    "EpisodeAccuracyCI95": "anil_tf.metrics:EpisodeAccuracyCI95",
    "EpisodeMeanSquaredError": "anil_tf.metrics:EpisodeMeanSquaredError",
    "load_model": "anil_tf.saving:load_model",
    "with_views": "anil_tf.views:with_views",
    "Predictor": "anil_tf.export:Predictor",  # needs no TensorFlow
}

__all__ = [
    "ANIL",
    "BOIL",
    "ClassImages",
    "EpisodeAccuracy",
    "EpisodeAccuracyCI95",
    "EpisodeMeanSquaredError",
    "EpisodeSampler",
    "LinearHead",
    "MAML",
    "NIL",
    "Predictor",
    "SinusoidSampler",
    "__version__",
    "backbones",
    "load_model",
    "with_views",
]

__getattr__, __dir__ = hand_on(__name__, _TARGETS)
