"""Comparing every runtime of a bundle with a float64 reference."""

from anil_tf.export.verify.checks import check, format_parity, run_cases, verify_bundle

__all__ = ["check", "format_parity", "run_cases", "verify_bundle"]
