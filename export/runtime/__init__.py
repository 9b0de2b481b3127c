"""Running a bundle: one interface, whatever the format behind it."""

from anil_tf.export.runtime.base import Adaptation, BundleRuntime, Runtime, open_bundle
from anil_tf.export.runtime.registry import RUNTIMES, Entry

__all__ = ["RUNTIMES", "Adaptation", "BundleRuntime", "Entry", "Runtime", "open_bundle"]
