"""Files that are whole or absent: written beside their place, then renamed into it."""

import contextlib
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

_PART = ".part"
_UNFINISHED = re.compile(rf"\..+\.\d+{re.escape(_PART)}(\.\w+)?")  # as `replacing` names them


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path to write to, whose file takes the place of `path` when the block ends.

    A reader finds the old file or the new one, never half of it; so does whoever comes after a
    crash, a full disk or a loss of power. What is no plain file, such as `/dev/stdout`, and a link
    are written straight.

    Args:
        path: The file to write, in a folder that exists.

    Raises:
        OSError: The file cannot be written: it is named, and what was there is left as it was.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        yield path
        return
    partial = path.with_name(f".{path.stem}.{threading.get_native_id()}{_PART}{path.suffix}")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        if (cause := _system_error(error)) and cause.filename in (None, str(partial)):
            reason = os.strerror(cause.errno) if cause.errno else str(cause)
            raise OSError(cause.errno, reason, str(path)) from error
        raise


def clear_partial(folder: Path) -> None:
    """Deletes temporary files left behind by killed processes, and no others.

    Do not call while another process is writing.
    """
    for path in folder.glob(f".*{_PART}*"):
        if _UNFINISHED.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def _system_error(error: BaseException | None) -> OSError | None:
    """The error of the operating system behind an error: of archives, closing hides the first."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return  # elsewhere a folder cannot be opened
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
