"""Where the heads of many users are kept: a folder, or Redis."""

import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from anil_tf.export.head import Head, read_head
from anil_tf.export.manifest import Manifest

if TYPE_CHECKING:
    import redis


class HeadStore(Protocol):
    """Keeps a head for each key, such as a user's id: any text."""

    def put(self, key: str, head: Head) -> None:
        """Keep a head, in place of an earlier one."""

    def get(self, key: str) -> Head:
        """The head of a key.

        Raises:
            KeyError: There is none.
            ValueError: It belongs to another backbone, or is damaged.
        """

    def delete(self, key: str) -> None:
        """Forget the head of a key, if there is one."""


class FolderStore:
    """Heads as `.npz` files, which `anil predict --head` reads too.

    A reader finds the old head or the new one, never half of it. Files are named by the sha256 of
    their keys, in 256 folders, so that any text is a key and millions of them do no harm.

    Args:
        folder: Made if it does not exist.
        manifest: Of the bundle that the heads are for.
    """

    def __init__(self, folder: str | Path, manifest: Manifest):
        self._folder, self._manifest = Path(folder), manifest

    def path(self, key: str) -> Path:
        """The file of a key."""
        digest = hashlib.sha256(key.encode()).hexdigest()
        return self._folder / digest[:2] / f"{digest}.npz"

    def put(self, key: str, head: Head) -> None:
        """Keep a head, in place of an earlier one."""
        head.write(self.path(key))

    def get(self, key: str) -> Head:
        """The head of a key; see `HeadStore`."""
        try:
            return read_head(self.path(key), self._manifest)
        except FileNotFoundError as error:
            raise KeyError(key) from error

    def delete(self, key: str) -> None:
        """Forget the head of a key, if there is one."""
        self.path(key).unlink(missing_ok=True)


class RedisStore:
    """Heads in Redis, each the bytes of its `.npz` file.

    Args:
        client: From `redis.Redis(...)`, without `decode_responses`.
        manifest: Of the bundle that the heads are for.
        prefix: Before each key; several models can share a Redis.
    """

    def __init__(self, client: "redis.Redis", manifest: Manifest, prefix: str = "anil:head:"):
        self._client, self._manifest, self._prefix = client, manifest, prefix

    def put(self, key: str, head: Head) -> None:
        """Keep a head, in place of an earlier one."""
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "head.npz"
            head.write(file)
            self._client.set(self._prefix + key, file.read_bytes())

    def get(self, key: str) -> Head:
        """The head of a key; see `HeadStore`."""
        content = cast(bytes | None, self._client.get(self._prefix + key))
        if content is None:
            raise KeyError(key)
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "head.npz"
            file.write_bytes(content)
            return read_head(file, self._manifest)

    def delete(self, key: str) -> None:
        """Forget the head of a key, if there is one."""
        self._client.delete(self._prefix + key)
