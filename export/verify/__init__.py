"""Comparing every runtime of a bundle with a float64 reference."""

from anil_tf.export.verify.checks import check_runtime, compare, format_parity, verify_bundle

__all__ = ["check_runtime", "compare", "format_parity", "verify_bundle"]
