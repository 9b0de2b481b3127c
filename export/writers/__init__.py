"""From a Keras model to the files of a bundle, one module per format."""
