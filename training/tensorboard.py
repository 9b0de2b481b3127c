"""The scalars of `history.csv` for TensorBoard, where it is installed."""

import importlib.util
from pathlib import Path

import keras


def scalar_writers(folder: Path) -> list[keras.callbacks.Callback]:
    """Keras's own callback, which writes the scalars of every epoch into a folder.

    Args:
        folder: For `tensorboard --logdir`; those of several runs compare below one folder.

    Returns:
        The callback, or nothing where TensorBoard is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        return []
    return [keras.callbacks.TensorBoard(folder, write_graph=False)]
