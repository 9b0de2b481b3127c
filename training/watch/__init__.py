"""What one can watch while a run trains: a curve in a file, and TensorBoard."""
