"""A server: TensorFlow Serving where it is installed, elsewhere one of the same contract.

The latter takes the same requests over gRPC and REST, loads the SavedModel into a session as
TensorFlow Serving does, and gives the same answers and the same statuses to what does not fit.
"""

import contextlib
import json
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

PROGRAM = "tensorflow_model_server"
HTTP = {"INVALID_ARGUMENT": 400, "NOT_FOUND": 404, "FAILED_PRECONDITION": 412}


class Refused(Exception):
    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


class Servable:
    """A SavedModel under a name."""

    def __init__(self, name: str, saved_model: Path):
        self.name = name
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        level = tf.get_logger().level
        tf.get_logger().setLevel("ERROR")
        self._signatures = tf.compat.v1.saved_model.load(
            self._session, [tf.saved_model.SERVING], str(saved_model)
        ).signature_def
        tf.get_logger().setLevel(level)

    def signature(self, model: str, name: str):
        if model != self.name:
            raise Refused("NOT_FOUND", f"Servable not found for request: Latest({model})")
        name = name or "serving_default"
        if not isinstance(name, str) or name not in self._signatures:
            raise Refused("FAILED_PRECONDITION", f'Serving signature key "{name}" not found.')
        return self._signatures[name]

    def run(self, definition, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if set(inputs) != set(definition.inputs):
            missing = set(definition.inputs) - set(inputs)
            raise Refused(
                "INVALID_ARGUMENT",
                f"input size does not match signature. Missing but required: {sorted(missing)}",
            )
        for name, value in inputs.items():
            wanted = tf.as_dtype(definition.inputs[name].dtype)
            if tf.as_dtype(value.dtype) != wanted:  # a session would cast it
                raise Refused(
                    "INVALID_ARGUMENT", f"{name} is {value.dtype} instead of {wanted.name}"
                )
        try:
            return self._session.run(
                {name: tensor.name for name, tensor in definition.outputs.items()},
                {definition.inputs[name].name: value for name, value in inputs.items()},
            )
        except (ValueError, tf.errors.InvalidArgumentError) as error:
            raise Refused("INVALID_ARGUMENT", str(error)) from error


class Predictions(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, servable: Servable):
        self._servable = servable

    def Predict(self, request, context):  # noqa: N802
        spec = request.model_spec
        try:
            definition = self._servable.signature(spec.name, spec.signature_name)
            try:
                inputs = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
            except (ValueError, TypeError) as error:
                raise Refused("INVALID_ARGUMENT", f"tensor parsing error: {error}") from error
            outputs = self._servable.run(definition, inputs)
        except Refused as refused:
            context.abort(grpc.StatusCode[refused.code], str(refused)[:1000])
        response = predict_pb2.PredictResponse()
        for name, value in outputs.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
        return response


def rest_handler(servable: Servable) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self):  # noqa: N802
            if self.path == f"/v1/models/{servable.name}":
                version = {"version": "1", "state": "AVAILABLE"}
                return self._answer(200, {"model_version_status": [version]})
            return self._answer(404, {"error": "not found"})

        def do_POST(self):  # noqa: N802
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found = re.fullmatch(r"/v1/models/([^/:]+):predict", self.path)
            if not found:
                return self._answer(404, {"error": f"Malformed request: POST {self.path}"})
            try:
                outputs = self._predict(found[1], body)
            except Refused as refused:
                return self._answer(HTTP[refused.code], {"error": str(refused)[:1000]})
            return self._answer(200, {"outputs": outputs})

        def _predict(self, model: str, body: bytes):
            try:
                request = json.loads(body)
                columns = request["inputs"]
            except (ValueError, KeyError, TypeError) as error:
                raise Refused("INVALID_ARGUMENT", f"JSON Parse error: {error}") from error
            definition = servable.signature(model, request.get("signature_name", ""))
            if not isinstance(columns, dict):
                columns = dict.fromkeys(definition.inputs, columns)
            inputs = {}
            for name, column in columns.items():
                if name in definition.inputs:
                    dtype = tf.as_dtype(definition.inputs[name].dtype).as_numpy_dtype
                    inputs[name] = self._parse(column, dtype)
            outputs = servable.run(definition, inputs)
            if len(outputs) == 1:
                return next(iter(outputs.values())).tolist()
            return {name: np.asarray(value).tolist() for name, value in outputs.items()}

        def _parse(self, column, dtype) -> np.ndarray:
            try:
                array = np.array(column)
                if array.dtype.kind not in "iuf" or (
                    array.dtype.kind == "f" and np.issubdtype(dtype, np.integer)
                ):
                    raise ValueError(f"JSON Value is not {np.dtype(dtype)}")
                return array.astype(dtype)
            except ValueError as error:
                raise Refused("INVALID_ARGUMENT", str(error)) from error

        def _answer(self, status: int, content) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    return Handler


@contextlib.contextmanager
def serve(name: str, saved_model: Path, threads: int = 8) -> Iterator[dict[str, str]]:
    """Serves a SavedModel on free ports; yields the URL of each protocol."""
    servable = Servable(name, saved_model)
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(futures.ThreadPoolExecutor(threads), options=unlimited)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        Predictions(servable), server
    )
    port = server.add_insecure_port("localhost:0")
    server.start()
    rest = ThreadingHTTPServer(("localhost", 0), rest_handler(servable))
    rest.daemon_threads = True
    thread = threading.Thread(target=rest.serve_forever, daemon=True)
    thread.start()
    try:
        yield {"grpc": f"grpc://localhost:{port}", "http": f"http://localhost:{rest.server_port}"}
    finally:
        rest.shutdown()
        rest.server_close()
        thread.join()
        server.stop(None).wait()


@contextlib.contextmanager
def serve_by_program(program: str, name: str, bundle: Path) -> Iterator[dict[str, str]]:
    """TensorFlow Serving itself on free ports, with the configuration of the bundle."""
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            ports.append(free.getsockname()[1])
    with tempfile.TemporaryDirectory() as scratch:
        config = (bundle / "serving" / "models.config").read_text(encoding="utf-8")
        placed, log = Path(scratch) / "models.config", Path(scratch) / "log"
        placed.write_text(config.replace(f"/models/{name}", str(bundle)), encoding="utf-8")
        command = [program, f"--port={ports[0]}", f"--rest_api_port={ports[1]}"]
        command.append(f"--model_config_file={placed}")
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            for port in ports:
                _wait(port, process, log)
            yield {"grpc": f"grpc://localhost:{ports[0]}", "http": f"http://localhost:{ports[1]}"}
        finally:
            process.terminate()
            process.wait()


def _wait(port: int, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            return socket.create_connection(("localhost", port), 1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise OSError(f"{PROGRAM} did not start: {log.read_text()[-2000:]}") from None
            time.sleep(0.2)


@contextlib.contextmanager
def serve_bundle(name: str, bundle: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Serves a bundle by whichever server there is; yields which that is, and its URLs."""
    if program := shutil.which(PROGRAM):
        with serve_by_program(program, name, bundle) as urls:
            yield f"TensorFlow Serving, {program}", urls
    else:
        with serve(name, bundle / "saved_model" / "1") as urls:
            yield f"a test server of the same contract (no {PROGRAM} on the PATH)", urls
