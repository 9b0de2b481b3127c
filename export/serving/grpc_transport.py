"""TensorFlow Serving over gRPC: the published protocol, with tensors in binary."""

import json
from collections.abc import Mapping
from pathlib import Path

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from anil_tf.export.serving.transport import FIRST_PAUSE, RETRIES, ServingError, Version
from anil_tf.export.signatures import Signature

# Read by gRPC itself. Where the name of the server stands for several replicas, calls go to each in
# turn: the model keeps nothing between them.
SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": "tensorflow.serving.PredictionService"}],
            "retryPolicy": {
                "maxAttempts": RETRIES + 1,
                "initialBackoff": f"{FIRST_PAUSE}s",
                "maxBackoff": "5s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}


def predict_request(
    model: str, signature: str, inputs: dict[str, np.ndarray], version: Version = None
) -> predict_pb2.PredictRequest:
    """A request for a signature of a served model, its tensors in binary."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    if isinstance(version, int):
        request.model_spec.version.value = version
    elif version is not None:
        request.model_spec.version_label = version
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


class GrpcTransport:
    """A `Transport` over gRPC.

    Args:
        target: Address of the server in gRPC's form: `host:port`, `dns:///name:port`.
        timeout: Timeout of a call in seconds, with its retries.
        secure: Whether to use TLS.
        headers: Metadata of every call.
        ca_file: File of the certificates to trust (PEM); gRPC's own by default.
    """

    prefers_files = False

    def __init__(
        self,
        target: str,
        timeout: float,
        secure: bool = False,
        headers: Mapping[str, str] | None = None,
        ca_file: str | Path | None = None,
    ):
        options = [
            ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
        ]
        if secure:
            roots = None if ca_file is None else Path(ca_file).read_bytes()
            self._channel = grpc.secure_channel(
                target, grpc.ssl_channel_credentials(roots), options
            )
        else:
            self._channel = grpc.insecure_channel(target, options)
        self._metadata = [(name.lower(), value) for name, value in (headers or {}).items()]
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._timeout = timeout

    def call(
        self,
        model: str,
        signature: str,
        inputs: dict[str, np.ndarray],
        declared: Signature,
        version: Version = None,
    ) -> dict[str, np.ndarray]:
        """Outputs by name of a signature run on arrays; see `Transport`."""
        request = predict_request(model, signature, inputs, version)
        try:
            response = self._stub.Predict(request, self._timeout, self._metadata)
        except grpc.RpcError as error:
            raise ServingError(error.code().name, error.details()) from error
        return {name: tf.make_ndarray(tensor) for name, tensor in response.outputs.items()}

    def list_signatures(self, model: str, version: Version = None) -> frozenset[str]:
        """No names: arrays travel in binary, so nobody asks."""
        del model, version
        return frozenset()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()
