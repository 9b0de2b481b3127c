"""A server: TensorFlow Serving where it is installed, elsewhere one of the same contract.

The latter takes the same requests over gRPC and REST, loads the SavedModel into a session as
TensorFlow Serving does, and gives the same answers and the same statuses to what does not fit:
versions and labels, `/metadata`, the row format (`instances`) and strings in base64 too.
"""

import base64
import contextlib
import json
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

PROGRAM = "tensorflow_model_server"
HTTP = {"INVALID_ARGUMENT": 400, "NOT_FOUND": 404, "FAILED_PRECONDITION": 412}


class Refused(Exception):
    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


class Servable:
    """The versions of a SavedModel under a name, with the labels of some."""

    def __init__(self, name: str, versions: dict[int, Path], labels: dict[str, int]):
        self.name, self.labels = name, labels
        self.versions = {number: Loaded(folder) for number, folder in sorted(versions.items())}

    def find(self, model: str, number: int | None = None, label: str = "") -> "Loaded":
        if label and model == self.name:
            if label not in self.labels:
                raise Refused("INVALID_ARGUMENT", f"Unrecognized servable version label: {label}")
            number = self.labels[label]
        elif number is None and model == self.name:
            number = max(self.versions)
        if model != self.name or number not in self.versions:
            asked = f"Latest({model})" if number is None else f"Specific({model}, {number})"
            raise Refused("NOT_FOUND", f"Servable not found for request: {asked}")
        return self.versions[number]

    def status(self, number: int | None) -> dict:
        if number is not None and number not in self.versions:
            message = f"Could not find version {number} of model {self.name}"
            raise Refused("NOT_FOUND", message)
        shown = sorted(self.versions, reverse=True) if number is None else [number]
        fine = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        return {"model_version_status": [{"version": str(each), **fine} for each in shown]}

    def metadata(self, number: int | None, label: str) -> dict:
        loaded = self.find(self.name, number, label)
        found = next(each for each, one in self.versions.items() if one is loaded)
        spec = {"name": self.name, "signature_name": "", "version": str(found)}
        signatures = {
            name: json_format.MessageToDict(
                definition,
                preserving_proto_field_name=True,
                always_print_fields_with_no_presence=True,
            )
            for name, definition in loaded.signatures.items()
        }
        return {
            "model_spec": spec,
            "metadata": {"signature_def": {"signature_def": signatures}},
        }


class Loaded:
    """A SavedModel in a session."""

    def __init__(self, saved_model: Path):
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        level = tf.get_logger().level
        tf.get_logger().setLevel("ERROR")
        self.signatures = tf.compat.v1.saved_model.load(
            self._session, [tf.saved_model.SERVING], str(saved_model)
        ).signature_def
        tf.get_logger().setLevel(level)

    def signature(self, name: str):
        name = name or "serving_default"
        if not isinstance(name, str) or name not in self.signatures:
            raise Refused("FAILED_PRECONDITION", f'Serving signature key "{name}" not found.')
        return self.signatures[name]

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
    def __init__(self, servable: Servable, token: str | None):
        self._servable, self._token = servable, token

    def Predict(self, request, context):  # noqa: N802
        given = dict(context.invocation_metadata()).get("authorization")
        if self._token and given != f"Bearer {self._token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")
        spec = request.model_spec
        number = spec.version.value if spec.HasField("version") else None
        try:
            loaded = self._servable.find(spec.name, number, spec.version_label)
            definition = loaded.signature(spec.signature_name)
            try:
                inputs = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
            except (ValueError, TypeError) as error:
                raise Refused("INVALID_ARGUMENT", f"tensor parsing error: {error}") from error
            outputs = loaded.run(definition, inputs)
        except Refused as refused:
            context.abort(grpc.StatusCode[refused.code], str(refused)[:1000])
        response = predict_pb2.PredictResponse()
        for name, value in outputs.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
        return response


PLACE = r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?"


def rest_handler(servable: Servable, token: str | None) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self):  # noqa: N802
            found = re.fullmatch(PLACE + "(/metadata)?", self.path)
            self._guarded(lambda: self._describe(*self._place(found), found[4]), found)

        def do_POST(self):  # noqa: N802
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found = re.fullmatch(PLACE + ":predict", self.path)
            self._guarded(lambda: self._predict(*self._place(found), body), found)

        def _guarded(self, answer, found) -> None:
            if token and self.headers["Authorization"] != f"Bearer {token}":
                return self._answer(401, {"error": "no token"})
            if not found:
                error = f"Malformed request: {self.command} {self.path}"
                return self._answer(400, {"error": error})
            try:
                return self._answer(200, answer())
            except Refused as refused:
                return self._answer(HTTP[refused.code], {"error": str(refused)[:1000]})

        def _place(self, found) -> tuple[str, int | None, str]:
            return found[1], int(found[2]) if found[2] else None, unquote(found[3] or "")

        def _describe(self, model: str, number: int | None, label: str, metadata: str | None):
            if model != servable.name:
                raise Refused("NOT_FOUND", f"Could not find any versions of model {model}")
            return servable.metadata(number, label) if metadata else servable.status(number)

        def _predict(self, model: str, number: int | None, label: str, body: bytes):
            try:
                request = json.loads(body)
                (kind,) = {"inputs", "instances"} & request.keys()
            except (ValueError, AttributeError) as error:
                raise Refused("INVALID_ARGUMENT", f"JSON Parse error: {error}") from error
            loaded = servable.find(model, number, label)
            definition = loaded.signature(request.get("signature_name", ""))
            columns = request[kind]
            if kind == "instances":
                columns = self._columns(columns, definition)
            elif not isinstance(columns, dict):
                columns = dict.fromkeys(definition.inputs, columns)
            inputs = {}
            for name, column in columns.items():
                if name in definition.inputs:
                    dtype = tf.as_dtype(definition.inputs[name].dtype).as_numpy_dtype
                    inputs[name] = self._parse(column, dtype)
            outputs = loaded.run(definition, inputs)
            lists = {name: np.asarray(value).tolist() for name, value in outputs.items()}
            if kind == "inputs":
                return {"outputs": next(iter(lists.values())) if len(lists) == 1 else lists}
            return {"predictions": self._rows(outputs, lists)}

        def _columns(self, rows, definition) -> dict[str, list]:
            """The row format: a value per row, or a dict of values by input."""
            if not isinstance(rows, list) or not rows:
                raise Refused("INVALID_ARGUMENT", "JSON Value: instances is no list with rows")
            if not isinstance(rows[0], dict) or rows[0].keys() == {"b64"}:
                rows = [dict.fromkeys(definition.inputs, row) for row in rows]
            if any(row.keys() != rows[0].keys() for row in rows):
                raise Refused("INVALID_ARGUMENT", "Failed to process element: other keys")
            return {name: [row[name] for row in rows] for name in rows[0]}

        def _rows(self, outputs, lists) -> list:
            if len({np.shape(value)[:1] for value in outputs.values()}) != 1:
                raise Refused("INVALID_ARGUMENT", "Tensors have inconsistent batch sizes")
            if len(lists) == 1:
                return next(iter(lists.values()))
            return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]

        def _parse(self, column, dtype) -> np.ndarray:
            try:
                if dtype is object:
                    return self._parse_strings(column)
                array = np.array(column)
                if array.dtype.kind not in "iuf" or (
                    array.dtype.kind == "f" and np.issubdtype(dtype, np.integer)
                ):
                    raise ValueError(f"JSON Value is not {np.dtype(dtype)}")
                return array.astype(dtype)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise Refused("INVALID_ARGUMENT", str(error)) from error

        def _parse_strings(self, column) -> np.ndarray:
            if not isinstance(column, list):
                return np.array(self._parse_string(column), object)
            strings = np.empty(len(column), object)
            strings[:] = [self._parse_string(each) for each in column]
            return strings

        def _parse_string(self, value) -> bytes:
            if isinstance(value, dict):
                return base64.b64decode(value["b64"], validate=True)
            return value.encode()

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


class Certificate(NamedTuple):
    """Files of a server's key and of its certificate."""

    key: Path
    chain: Path


@contextlib.contextmanager
def serve(
    name: str,
    versions: dict[int, Path],
    labels: dict[str, int] | None = None,
    token: str | None = None,
    certificate: Certificate | None = None,
    threads: int = 8,
) -> Iterator[dict[str, str]]:
    """Serves SavedModels by version on free ports; yields the URL of each protocol.

    `token` is asked of each request, as a proxy before TensorFlow Serving does.
    """
    servable = Servable(name, versions, labels or {})
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(futures.ThreadPoolExecutor(threads), options=unlimited)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        Predictions(servable, token), server
    )
    rest = ThreadingHTTPServer(("localhost", 0), rest_handler(servable, token))
    rest.daemon_threads = True
    if certificate:
        pair = certificate.key.read_bytes(), certificate.chain.read_bytes()
        port = server.add_secure_port("localhost:0", grpc.ssl_server_credentials([pair]))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.chain, certificate.key)
        rest.socket = context.wrap_socket(rest.socket, server_side=True)
    else:
        port = server.add_insecure_port("localhost:0")
    server.start()
    thread = threading.Thread(target=rest.serve_forever, daemon=True)
    thread.start()
    secure = "s" if certificate else ""
    try:
        yield {
            "grpc": f"grpc{secure}://localhost:{port}",
            "http": f"http{secure}://localhost:{rest.server_port}",
        }
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
        with serve(name, {1: bundle / "saved_model" / "1"}) as urls:
            yield f"a test server of the same contract (no {PROGRAM} on the PATH)", urls
