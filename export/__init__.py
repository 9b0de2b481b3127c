"""From a trained run to a bundle that runs: SavedModel and ONNX, verified.

A bundle is a folder. `bundle.export_bundle` writes it, `runtime.open_bundle` runs it, `verify`
compares every runtime in it with a float64 reference.
"""
