"""How honest a model is: calibration, and images of none of the classes."""
