"""Models on disk."""

import re
import zipfile
from pathlib import Path
from typing import Any

from anil_tf.support.registration import register_with_keras
from anil_tf.support.untrusted import DAMAGE, check_members

MODEL_BYTES = 2**33  # of a .keras file, unpacked
_MODEL = re.compile(r"metadata\.json|config\.json|training\.json|model\.weights\.h5")


def load_model(path: str | Path) -> Any:
    """Loads a Keras model from a `.keras` file, for inference. No code in the file is executed.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, has unexpected members, or needs its own code.
    """
    import keras

    register_with_keras()
    path = Path(path)
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            check_members(archive, _MODEL, MODEL_BYTES)
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} does not fit its checksum")
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except (*DAMAGE, AttributeError, IndexError) as error:
        reason = str(error).partition(" Full object config")[0]
        raise ValueError(f"{path} is not a model that can be loaded: {reason}") from error
