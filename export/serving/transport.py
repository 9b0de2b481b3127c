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


# A number, or a label that the server's configuration gives to one.
Version = int | str | None


class Transport(Protocol):
    """A connection to a server.

    Attributes:
        prefers_files: Whether pictures travel faster as files than as arrays of numbers.
    """

    prefers_files: bool

    def call(
        self,
        model: str,
        signature: str,
        inputs: dict[str, np.ndarray],
        declared: Signature,
        version: Version = None,
    ) -> dict[str, np.ndarray]:
        """Outputs by name of a signature run on arrays.

        Args:
            model: Name of the served model.
            signature: Name of the signature.
            inputs: Arrays by input name.
            declared: The signature.
            version: Version of the model, by number or label; the latest by default.

        A call is repeated only if the server is unavailable, `RETRIES` times with growing pauses. A
        rejected request would be rejected again, and a timed-out call has used its time.

        Raises:
            ServingError: The server rejected the request, or did not reply in time.
        """

    def list_signatures(self, model: str, version: Version = None) -> frozenset[str]:
        """The names of a served model's signatures; none where the server does not tell them."""

    def close(self) -> None:
        """Close the connection."""
