"""The client's connection to TensorFlow Serving, and its errors."""

from typing import Protocol

import numpy as np

from anil_tf.export.signatures import Signature

RETRIES = 3
FIRST_PAUSE = 0.2  # seconds before the first retry; doubled each time


class ServingError(RuntimeError):
    """A server rejected a request, or did not reply.

    Attributes:
        code: The name of the gRPC status, such as `INVALID_ARGUMENT`, `UNAVAILABLE` or
            `DEADLINE_EXCEEDED`; over REST the one that corresponds to the HTTP status.
    """

    def __init__(self, code: str, message: str):
        super().__init__(f"{code}: {message}")
        self.code = code


class Transport(Protocol):
    """A connection to a server."""

    def call(
        self, model: str, signature: str, inputs: dict[str, np.ndarray], declared: Signature
    ) -> dict[str, np.ndarray]:
        """Outputs by name of a signature run on arrays.

        A call is repeated only if the server is unavailable, `RETRIES` times with growing pauses. A
        rejected request would be rejected again, and a timed-out call has used its time.

        Raises:
            ServingError: The server rejected the request, or did not reply in time.
        """

    def close(self) -> None:
        """Close the connection."""
