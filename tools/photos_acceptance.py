"""Measures the table of acceptance of the bundle that `anil export photos` makes.

    python -m tools.photos_acceptance DIR [DIR ...]

Each DIR has one folder per class. The classes of all are put together, with at most 40 images of
each. The result belongs into `ACCEPTANCE` of export/photos.py. There it comes from the validation
classes of grocery84 and mini-ImageNet.
"""

import sys
from pathlib import Path

from anil_tf.datasets import folder
from anil_tf.episodes import EpisodeSampler
from anil_tf.export import photos
from anil_tf.training import measure_acceptance

IMAGES = 40
EPISODES = 400


def main() -> None:
    classes = {
        f"{root}/{name}": files[:IMAGES]
        for root in sys.argv[1:]
        for name, files in folder.list_classes(Path(root)).items()
    }
    images = folder.read_classes(classes, (photos.SIDE, photos.SIDE, 3))
    sampler = EpisodeSampler(images, ways=20, shots=10, queries=5)
    table = measure_acceptance(photos.ready_model(), sampler, EPISODES)
    print(table | {"thresholds": [[round(x, 3) for x in row] for row in table["thresholds"]]})


if __name__ == "__main__":
    main()
