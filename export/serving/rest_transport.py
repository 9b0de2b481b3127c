"""TensorFlow Serving over REST: JSON, without TensorFlow or gRPC."""

import base64
import json
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

import numpy as np
import urllib3

from anil_tf.export.serving.transport import FIRST_PAUSE, RETRIES, ServingError, Version
from anil_tf.export.signatures import Signature

CODES: dict[int, str] = {
    HTTPStatus.BAD_REQUEST: "INVALID_ARGUMENT",
    HTTPStatus.UNAUTHORIZED: "UNAUTHENTICATED",
    HTTPStatus.FORBIDDEN: "PERMISSION_DENIED",
    HTTPStatus.NOT_FOUND: "NOT_FOUND",
    HTTPStatus.PRECONDITION_FAILED: "FAILED_PRECONDITION",
    HTTPStatus.SERVICE_UNAVAILABLE: "UNAVAILABLE",
    HTTPStatus.GATEWAY_TIMEOUT: "DEADLINE_EXCEEDED",
}


class RestTransport:
    """A `Transport` over REST.

    Requests are columnar, with the key "inputs". In the row format, "instances", `adapt` cannot be
    called, because its inputs have different first axes. Bytes travel in base64.

    Args:
        url: Address of the server, `http://host:port` or `https://host:port`.
        timeout: Timeout of an attempt in seconds.
        headers: Headers of every request.
        ca_file: File of the certificates to trust (PEM); those of the system by default.
    """

    prefers_files = True

    def __init__(
        self,
        url: str,
        timeout: float,
        headers: Mapping[str, str] | None = None,
        ca_file: str | Path | None = None,
    ):
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
        self._pool = urllib3.PoolManager(
            headers=dict(headers or {}),
            retries=retries,
            timeout=timeout,
            maxsize=32,
            ca_certs=None if ca_file is None else str(ca_file),
        )

    def call(
        self,
        model: str,
        signature: str,
        inputs: dict[str, np.ndarray],
        declared: Signature,
        version: Version = None,
    ) -> dict[str, np.ndarray]:
        """Outputs by name of a signature run on arrays; see `Transport`."""
        columns = {name: to_json(value) for name, value in inputs.items()}
        body = json.dumps({"signature_name": signature, "inputs": columns})
        response = self._request("POST", f"{_path(model, version)}:predict", body.encode())
        if response.status != HTTPStatus.OK:
            raise ServingError(CODES.get(response.status, "UNKNOWN"), _reason(response))
        outputs = response.json()["outputs"]
        if len(declared.outputs) == 1:  # the server then omits its name
            outputs = dict.fromkeys(declared.outputs, outputs)
        return {
            name: np.array(outputs[name], tensor.dtype) for name, tensor in declared.outputs.items()
        }

    def list_signatures(self, model: str, version: Version = None) -> frozenset[str]:
        """The names of a served model's signatures; none where the server does not tell them."""
        response = self._request("GET", f"{_path(model, version)}/metadata")
        try:
            return frozenset(response.json()["metadata"]["signature_def"]["signature_def"])
        except (ValueError, KeyError, TypeError):
            return frozenset()

    def _request(
        self, method: str, path: str, body: bytes | None = None
    ) -> urllib3.BaseHTTPResponse:
        try:
            return self._pool.request(method, self._url + path, body=body)
        except urllib3.exceptions.ReadTimeoutError as error:
            raise ServingError("DEADLINE_EXCEEDED", str(error)) from error
        except urllib3.exceptions.HTTPError as error:
            raise ServingError("UNAVAILABLE", str(error)) from error

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()


def _path(model: str, version: Version) -> str:
    path = f"/v1/models/{model}"
    if version is None:
        return path
    return (
        f"{path}/versions/{version}"
        if isinstance(version, int)
        else f"{path}/labels/{quote(version, safe='')}"
    )


def to_json(value: np.ndarray) -> object:
    """An array as JSON has it; bytes in base64."""
    if value.dtype.kind != "O":
        return value.tolist()
    return [{"b64": base64.b64encode(each).decode("ascii")} for each in value]


def _reason(response: urllib3.BaseHTTPResponse) -> str:
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP status {response.status} {response.reason}"
