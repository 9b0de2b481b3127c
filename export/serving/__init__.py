"""TensorFlow Serving: files for a server, transports of the client, stores of heads."""
