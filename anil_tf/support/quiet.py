"""Suppresses messages that native libraries write directly to stderr."""

import atexit
import contextlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

USER_ERRORS = (ImportError, KeyboardInterrupt, OSError, ValueError)  # reported in one line


def import_tensorflow() -> None:
    """Imports TensorFlow without the messages that its import writes to stderr.

    Some lines (`All log messages before absl::InitializeLog()`, `Could not find cuda drivers`) are
    written before TensorFlow reads `TF_CPP_MIN_LOG_LEVEL`. Only redirecting the file descriptor
    stops them (https://github.com/tensorflow/tensorflow/issues/100442).
    """
    # Where it is not installed, the code that needs it says so.
    if "tensorflow" not in sys.modules and importlib.util.find_spec("tensorflow"):
        with stderr_suppressed():
            import tensorflow  # noqa: F401


@contextlib.contextmanager
def stderr_suppressed() -> Iterator[None]:
    """Hides stderr inside the block; prints what was hidden if an unexpected exception is raised.

    LiteRT reports every accelerator that it looks for, and at exit every one that it releases; it
    has no setting for that. Do not use it around code that shows its progress on stderr.
    """
    atexit.unregister(_close_stderr)
    atexit.register(_close_stderr)
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as notes:
        os.dup2(notes.fileno(), 2)
        try:
            yield
        except BaseException as error:
            if not isinstance(error, USER_ERRORS):
                notes.seek(0)
                os.write(stderr, notes.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _close_stderr() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
