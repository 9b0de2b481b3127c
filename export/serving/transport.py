"""What the client needs of a connection to TensorFlow Serving, and how it fails."""

from typing import Protocol

import numpy as np

from anil_tf.export.signatures import Signature

RETRIES = 3
FIRST_PAUSE = 0.2  # seconds before the first retry; doubled each time


class ServingError(RuntimeError):
    """A server refused a request, or did not answer.

    Attributes:
        code: The name of the gRPC status, such as `INVALID_ARGUMENT`, `UNAVAILABLE` or
            `DEADLINE_EXCEEDED`; over REST the one that the HTTP status stands for.
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

        A server that is not there is asked again, `RETRIES` times with growing pauses. Nothing else
        is repeated: a refusal stays one, and a call that ran out of time may have cost its time.

        Raises:
            ServingError: The server refused, or did not answer in time.
        """

    def close(self) -> None:
        """Close the connection."""
