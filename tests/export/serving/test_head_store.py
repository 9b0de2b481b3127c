"""Heads of many users, in a folder and in Redis."""

import shutil
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from anil_tf.export.head import Head
from anil_tf.export.manifest import read_manifest
from anil_tf.export.serving.head_store import FolderStore, RedisStore

KEYS = ["user 1", "USER 1", "../escape", ".", "a/b", "ключ", "x" * 1000]


@pytest.fixture(scope="module")
def manifest(bundle):
    return read_manifest(bundle)


@pytest.fixture(scope="module")
def redis_client(tmp_path_factory):
    program = shutil.which("redis-server")
    if not program:
        pytest.skip("no redis-server on the PATH")
    import redis

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("redis")
    process = subprocess.Popen(
        [program, "--port", str(port), "--save", "", "--dir", folder], stdout=subprocess.DEVNULL
    )
    client = redis.Redis(port=port)
    try:
        for _ in range(100):
            try:
                client.ping()
                break
            except redis.ConnectionError:
                time.sleep(0.1)
        yield client
    finally:
        client.close()
        process.terminate()
        process.wait()


@pytest.fixture(params=["folder", "redis"])
def store(request, tmp_path, manifest):
    if request.param == "folder":
        return FolderStore(tmp_path / "heads", manifest)
    client = request.getfixturevalue("redis_client")
    client.flushall()
    return RedisStore(client, manifest)


def make_head(manifest, seed, sha256=None):
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(manifest.feature_size, 3)).astype(np.float32)
    bias = rng.normal(size=3).astype(np.float32)
    rows = rng.normal(size=(4, manifest.feature_size)).astype(np.float32)
    labels = np.array([0, 1, 2, 2], np.int32)
    return Head(kernel, bias, ("a", "b", "ц"), rows, labels, sha256 or manifest.backbone_sha256)


def assert_same(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_every_key_has_its_own_head(store, manifest):
    heads = {key: make_head(manifest, seed) for seed, key in enumerate(KEYS)}
    for key, head in heads.items():
        store.put(key, head)
    for key, head in heads.items():
        assert_same(store.get(key), head)


def test_a_head_takes_the_place_of_an_earlier_one(store, manifest):
    store.put("user", make_head(manifest, 1))
    store.put("user", make_head(manifest, 2))
    assert_same(store.get("user"), make_head(manifest, 2))


def test_a_deleted_head_is_gone_and_deleting_twice_is_no_error(store, manifest):
    store.put("user", make_head(manifest, 1))
    store.delete("user")
    store.delete("user")
    with pytest.raises(KeyError, match="user"):
        store.get("user")


def test_a_head_of_another_backbone_is_refused(store, manifest):
    store.put("user", make_head(manifest, 1, "another"))
    with pytest.raises(ValueError, match="was made with another bundle"):
        store.get("user")


def test_threads_that_put_the_same_key_leave_one_whole_head(tmp_path, manifest):
    store = FolderStore(tmp_path / "heads", manifest)
    heads = [make_head(manifest, seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(10):
            list(pool.map(lambda head: store.put("user", head), heads))
    kernel = store.get("user").kernel
    assert any(np.array_equal(kernel, head.kernel) for head in heads)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [
        store.path("user").name
    ]


def test_files_stay_in_the_folder(tmp_path, manifest):
    store = FolderStore(tmp_path / "heads", manifest)
    for key in KEYS:
        store.put(key, make_head(manifest, 0))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == len(KEYS)
    assert all(path.is_relative_to(tmp_path / "heads") for path in files)


def test_a_failure_while_writing_leaves_the_old_head(tmp_path, manifest, monkeypatch):
    store = FolderStore(tmp_path, manifest)
    store.put("user", make_head(manifest, 1))

    def fail(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        store.put("user", make_head(manifest, 2))
    assert_same(store.get("user"), make_head(manifest, 1))
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


def test_who_reads_while_another_writes_has_the_old_head_whole(tmp_path, manifest):
    store = FolderStore(tmp_path, manifest)
    store.put("user", make_head(manifest, 1))
    with store.path("user").open("rb") as reader:
        store.put("user", make_head(manifest, 2))
        np.testing.assert_array_equal(np.load(reader)["kernel"], make_head(manifest, 1).kernel)
