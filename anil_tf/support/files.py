"""Atomic writes: a file is written under a temporary name, then renamed."""

import contextlib
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

_PART = ".anil-part"  # no other program names its files so
_UNFINISHED = re.compile(rf"\..+\.\d+{re.escape(_PART)}(\.\w+)?")  # as `replacing` names them


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Context manager that yields a temporary path, whose file replaces `path` at the end.

    A reader finds the old file or the new one, never a part of it, also after a crash, a full disk
    or a loss of power. A link, or anything that is not a plain file, such as `/dev/stdout`, is
    written directly.

    Args:
        path: File to write, in a folder that exists.

    Raises:
        OSError: The file cannot be written. It is named, and an existing file is unchanged.
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
    """The operating system's error behind an error; closing an archive can hide it."""
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
