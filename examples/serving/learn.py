"""Teach a served model the classes of a user, and classify images.

python learn.py BUNDLE --user ann photos/             learns the classes of photos/class-name/*.png
python learn.py BUNDLE --user ann --name IMAGE...     classifies images
"""

import argparse
from pathlib import Path

import numpy as np

from anil_tf.datasets.folder import list_classes, read_classes, read_image
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
        height, width, channels = client.manifest.image_shape
        shape = (height, width, channels)
        if arguments.name:
            pixels = np.stack([read_image(path, shape) for path in arguments.images])
            head = store.get(arguments.user)
            for path, row in zip(arguments.images, client.predict(pixels, head), strict=True):
                best = int(row.argmax())
                print(f"{path}: {head.names[best]} {row[best]:.3f}")
        else:
            files = list_classes(arguments.images[0])
            classes = read_classes(files, shape)
            labels = np.repeat(np.arange(len(classes.names)), classes.counts)
            store.put(arguments.user, client.learn(classes.images, labels, classes.names))
            print(f"{arguments.user}: learned {', '.join(classes.names)}")


if __name__ == "__main__":
    main()
