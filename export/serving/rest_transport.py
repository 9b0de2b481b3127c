"""TensorFlow Serving over REST: JSON, without TensorFlow or gRPC."""

import json
from http import HTTPStatus

import numpy as np
import urllib3

from anil_tf.export.serving.transport import FIRST_PAUSE, RETRIES, ServingError
from anil_tf.export.signatures import Signature

CODES: dict[int, str] = {
    HTTPStatus.BAD_REQUEST: "INVALID_ARGUMENT",
    HTTPStatus.NOT_FOUND: "NOT_FOUND",
    HTTPStatus.PRECONDITION_FAILED: "FAILED_PRECONDITION",
    HTTPStatus.SERVICE_UNAVAILABLE: "UNAVAILABLE",
    HTTPStatus.GATEWAY_TIMEOUT: "DEADLINE_EXCEEDED",
}


class RestTransport:
    """A `Transport` over REST.

    Requests are columnar, with the key "inputs". In the row format, "instances", `adapt` cannot be
    called, because its inputs have different first axes.

    Args:
        url: Address of the server, `http://host:port` or `https://host:port`.
        timeout: Timeout of an attempt in seconds.
    """

    def __init__(self, url: str, timeout: float):
        self._url = url.rstrip("/")
        retries = urllib3.Retry(
            total=RETRIES,
            read=False,
            redirect=False,
            other=False,
            status_forcelist=[HTTPStatus.SERVICE_UNAVAILABLE],
            allowed_methods=None,  # also a POST, because requests are idempotent
            backoff_factor=FIRST_PAUSE,
            raise_on_status=False,
        )
        # Connections that are kept open, for the threads that share a client.
        self._pool = urllib3.PoolManager(retries=retries, timeout=timeout, maxsize=32)

    def call(
        self, model: str, signature: str, inputs: dict[str, np.ndarray], declared: Signature
    ) -> dict[str, np.ndarray]:
        """Outputs by name of a signature run on arrays; see `Transport`."""
        columns = {name: value.tolist() for name, value in inputs.items()}
        body = json.dumps({"signature_name": signature, "inputs": columns})
        try:
            response = self._pool.request(
                "POST", f"{self._url}/v1/models/{model}:predict", body=body.encode()
            )
        except urllib3.exceptions.ReadTimeoutError as error:
            raise ServingError("DEADLINE_EXCEEDED", str(error)) from error
        except urllib3.exceptions.HTTPError as error:
            raise ServingError("UNAVAILABLE", str(error)) from error
        if response.status != HTTPStatus.OK:
            raise ServingError(CODES.get(response.status, "UNKNOWN"), _reason(response))
        outputs = response.json()["outputs"]
        if len(declared.outputs) == 1:  # the server then omits its name
            outputs = dict.fromkeys(declared.outputs, outputs)
        return {
            name: np.array(outputs[name], tensor.dtype) for name, tensor in declared.outputs.items()
        }

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()


def _reason(response: urllib3.BaseHTTPResponse) -> str:
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP status {response.status} {response.reason}"
