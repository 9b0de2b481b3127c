"""Running a bundle: one interface, whatever the format behind it."""

from anil_tf.export.runtime.base import Adaptation, BundleRuntime, Runtime
from anil_tf.export.runtime.registry import RUNTIMES, Entry, open_bundle

__all__ = ["RUNTIMES", "Adaptation", "BundleRuntime", "Entry", "Runtime", "open_bundle"]
