"""Teach a served model the classes of a user, and classify images.

python learn.py BUNDLE --user ann photos/             learns the classes of photos/class-name/*.png
python learn.py BUNDLE --user ann --name IMAGE...     classifies images
"""

import argparse
from pathlib import Path

from anil_tf.datasets.folder import list_classes
from anil_tf.export import FewShotClient, FolderStore, Manifest, RedisStore
from anil_tf.export.serving.head_store import HeadStore


def open_store(place: str, manifest: Manifest) -> HeadStore:
    """Opens a store of heads: a folder, or `redis://host:port`."""
    if place.startswith("redis://"):
        import redis

        return RedisStore(redis.Redis.from_url(place), manifest)
    return FolderStore(place, manifest)


def main() -> None:
    """Learns or classifies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, help="or a folder with only its manifest.json")
    parser.add_argument("--url", default="grpc://localhost:8500")
    parser.add_argument("--heads", default="heads", help="a folder, or redis://host:port")
    parser.add_argument("--user", required=True)
    parser.add_argument("--name", action="store_true", help="classify images instead of learning")
    parser.add_argument("images", nargs="+", type=Path)
    arguments = parser.parse_args()

    with FewShotClient(arguments.url, arguments.bundle) as client:
        store = open_store(arguments.heads, client.manifest)
        if arguments.name:
            head = store.get(arguments.user)
            rows = client.predict(arguments.images, head)
            for path, row in zip(arguments.images, rows, strict=True):
                best = int(row.argmax())
                print(f"{path}: {head.names[best]} {row[best]:.3f}")
        else:
            classes = list_classes(arguments.images[0])
            labels = [name for name, files in classes.items() for _ in files]
            images = [file for files in classes.values() for file in files]
            store.put(arguments.user, client.learn(images, labels))
            print(f"{arguments.user}: learned {', '.join(classes)}")


if __name__ == "__main__":
    main()
