"""TensorFlow Serving: what a server needs, how a client reaches it, where heads are kept."""
