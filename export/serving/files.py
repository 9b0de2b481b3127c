"""`serving/`: files with which an operator serves a bundle's SavedModel.

The files are those of `templates/`, with the name of the model and the version of the server.
"""

import re
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from anil_tf.export import layout

if TYPE_CHECKING:  # a client needs `served_name` without TensorFlow
    from anil_tf.export.writers.graphs import Graphs

SERVER = "2.21.0"  # of the official image, tensorflow/serving


def served_name(name: str) -> str:
    """The name that a bundle's model is served under.

    A name for URLs, images and Kubernetes: lower-case letters, digits and single hyphens, a letter
    first, at most 63 in all.
    """
    words = re.findall("[a-z0-9]+", name.lower())
    served = "-".join(words)
    return (served if served[:1].isalpha() else f"model-{served}")[:63].rstrip("-")


def write_serving(graphs: "Graphs", bundle: Path) -> None:
    """Write the configuration of a server, a container and a cluster into a bundle.

    Args:
        graphs: Functions of the bundle, which have its name.
        bundle: Folder of the bundle.
    """
    folder = bundle / layout.SERVING
    folder.mkdir()
    values = {"model": served_name(graphs.name), "server": SERVER}
    for template in resources.files("anil_tf.export.serving").joinpath("templates").iterdir():
        text = Template(template.read_text("utf-8")).substitute(values)
        (folder / template.name).write_text(text, encoding="utf-8")
