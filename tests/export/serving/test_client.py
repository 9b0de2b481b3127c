"""The client against a server: the same answers as offline, and a clear end to what goes wrong."""

import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import numpy as np
import pytest
from PIL import Image
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from anil_tf.export.client import FewShotClient
from anil_tf.export.manifest import read_manifest
from anil_tf.export.runtime import open_bundle
from anil_tf.export.serving.files import served_name
from anil_tf.export.serving.transport import ServingError
from anil_tf.export.signatures import Signature
from tests.export.serving.server import Certificate, serve

CLOSE = {"rtol": 1e-5, "atol": 1e-6}
LABELS = np.array([0, 1, 2, 0, 1, 2])


@pytest.fixture(scope="module")
def offline(served):
    return open_bundle(served.bundle, "saved_model")


def expected_head(offline, images, labels, ways):
    return offline.adapt(
        offline.features(images),
        labels,
        *offline.initial_head(ways),
        offline.inner_lr,
        offline.inner_steps,
    )


def test_learn_gives_the_head_that_is_learned_offline(client, offline, images):
    head = client.learn(images[:6], LABELS, names=["a", "b", "c"])
    expected = expected_head(offline, images[:6], LABELS, 3)
    np.testing.assert_allclose(head.kernel, expected.kernel, **CLOSE)
    np.testing.assert_allclose(head.bias, expected.bias, **CLOSE)
    assert head.names == ("a", "b", "c")
    assert head.backbone_sha256 == offline.manifest.backbone_sha256


def test_labels_may_be_names(client, images):
    numbered = client.learn(images[:6], [2, 0, 1, 0, 1, 2], names=["ann", "bob", "cat"])
    named = client.learn(images[:6], ["cat", "ann", "bob", "ann", "bob", "cat"])
    assert named.names == numbered.names
    np.testing.assert_array_equal(named.support_labels, numbered.support_labels)
    np.testing.assert_allclose(named.kernel, numbered.kernel, **CLOSE)


def test_the_client_says_none_of_these_by_the_table_of_the_bundle(client, images):
    head = client.learn(images[:6], LABELS)
    probabilities = client.predict(images[6:], head)
    accepted = client.predict(images[6:], head, accept=0.99)
    np.testing.assert_allclose(accepted[:, :-1], probabilities, **CLOSE)
    rejected = client.predict(images[6:], head, accept=0.5)
    np.testing.assert_array_equal(rejected, np.eye(4)[[3] * len(images[6:])])


def test_the_server_measures_similarity_as_offline(client, offline, images):
    features = client.features(images)
    actual = client.call(
        "similarity",
        features=features[6:],
        support_features=features[:6],
        support_labels=LABELS,
        ways=3,
    )["similarity"]
    expected = offline.similarity(features[6:], features[:6], LABELS, 3)
    np.testing.assert_allclose(actual, expected, **CLOSE)


def test_predict_gives_the_probabilities_of_offline(client, offline, images):
    head = client.learn(images[:6], LABELS)
    _, expected = offline.predict(offline.features(images[6:]), head.kernel, head.bias)
    np.testing.assert_allclose(client.predict(images[6:], head), expected, **CLOSE)


def test_files_pillow_images_and_one_array_are_images_too(client, images, tmp_path):
    head = client.learn((image for image in images[:6]), LABELS)
    picture = Image.fromarray(images[6].squeeze())
    picture.save(tmp_path / "cat.png")
    expected = client.predict(images[6:7], head)
    for one in (tmp_path / "cat.png", str(tmp_path / "cat.png"), picture, images[6]):
        np.testing.assert_allclose(client.predict(one, head), expected, **CLOSE)
    at_once = client.learn_and_predict(list(images[:6]), LABELS, picture)
    np.testing.assert_allclose(at_once, expected, **CLOSE)


def test_one_call_learns_and_predicts(client, images):
    in_two = client.predict(images[6:], client.learn(images[:6], LABELS))
    at_once = client.learn_and_predict(images[:6], LABELS, images[6:])
    np.testing.assert_allclose(at_once, in_two, **CLOSE)


def test_more_images_than_a_request_takes(client, offline, images):
    many = np.concatenate([images] * 4)
    assert len(many) > 32
    np.testing.assert_allclose(client.features(many), offline.features(many), **CLOSE)


def test_a_label_out_of_range_leaves_its_image_out(client, images):
    head = client.learn(images[:6], LABELS)
    labels = np.concatenate([LABELS, [-1, 3, 7]])
    padded = client.learn(images[:9], labels, names=head.names)
    np.testing.assert_allclose(padded.kernel, head.kernel, **CLOSE)


def test_a_class_without_an_image_is_named(client, images):
    with pytest.raises(ValueError, match="at least one image of 'b'"):
        client.learn(images[:3], [0, 2, 0], names=["a", "b", "c"])


def test_a_support_loss_that_rises_is_reported(client, images):
    with pytest.warns(UserWarning, match="The support loss rose"):
        client.learn(images[:6], LABELS, learning_rate=1000.0, steps=3)


def test_steps_and_rate_can_be_chosen(client, offline, images):
    untouched = client.learn(images[:6], LABELS, steps=0)
    np.testing.assert_array_equal(untouched.kernel, offline.initial_head(3)[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((6, 28, 28, 1))}, "image must be uint8"),
        ({"images": np.zeros((0, 28, 28, 1), np.uint8), "labels": []}, "ways must be at least 2"),
        ({"labels": [0, 1]}, "one label for each image. Received: 6 images, 2 labels"),
        ({"labels": [0] * 6}, "ways must be at least 2. Received: ways=1"),
        ({"labels": [-1] * 6, "names": ["a", "b"]}, r"at least one image of 'a'"),
        ({"labels": np.eye(3)[[0, 1, 2, 0, 1, 2]]}, r"Turn one-hot rows into numbers"),
        ({"labels": LABELS[:, np.newaxis]}, r"Take the axis away: labels.ravel\(\)"),
        ({"labels": ["a", "b", None] * 2}, "Every image must have a label. Received: None"),
        ({"labels": list("aabbcc"), "names": ["a", "b", "c"]}, "labels must be whole numbers"),
        ({"labels": LABELS + 2**33, "names": ["a", "b"]}, r"at least one image of 'a'"),
        ({"images": np.full((6, 28, 28, 1), 300, np.uint16)}, "image must lie in 0..255"),
    ],
)
def test_what_does_not_fit_is_refused_by_the_client(client, images, change, message):
    with pytest.raises(ValueError, match=message):
        client.learn(**({"images": images[:6], "labels": LABELS} | change))


def test_a_head_of_another_backbone_is_refused(client, images):
    head = client.learn(images[:6], LABELS)._replace(backbone_sha256="another")
    with pytest.raises(ValueError, match="another backbone than that of 'tiny'"):
        client.predict(images, head)


HEAD = {"kernel": np.zeros((64, 5), np.float32), "bias": np.zeros(5, np.float32)}
FEATURES = np.zeros((2, 64), np.float32)
ADAPT = {
    "features": FEATURES,
    "labels": np.zeros(2, np.int32),
    **HEAD,
    "learning_rate": np.float32(0.1),
    "steps": np.int32(1),
}
MALFORMED = {
    "dtype": ("features", {"image": np.full((1, 28, 28, 1), 0.5, np.float32)}),
    "rank": ("features", {"image": np.zeros((28, 28), np.uint8)}),
    "size": ("features", {"image": np.zeros((1, 30, 28, 1), np.uint8)}),
    "kernel size": ("predict", {"features": FEATURES, **HEAD, "kernel": np.eye(5, dtype="f4")}),
    "label count": ("adapt", {**ADAPT, "labels": np.zeros(3, np.int32)}),
    "missing": ("predict", {"features": FEATURES, "bias": HEAD["bias"]}),
    # What would take all of the server's time or memory.
    "endless steps": ("adapt", {**ADAPT, "steps": np.int32(2**31 - 1)}),
    "endless classes": ("initial_head", {"ways": np.int32(2**31 - 1)}),
    "endless label": (
        "adapt_and_predict",
        {
            "support_image": np.zeros((2, 28, 28, 1), np.uint8),
            "support_labels": np.array([0, 2**31 - 1], np.int32),
            "query_image": np.zeros((1, 28, 28, 1), np.uint8),
        },
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_request_is_an_invalid_argument_and_the_server_goes_on(client, images, case):
    signature, inputs = MALFORMED[case]
    with pytest.raises(ServingError) as failure:
        client.transport.call(client.model, signature, inputs, client.signatures[signature])
    assert failure.value.code == "INVALID_ARGUMENT"
    assert client.features(images).shape == (12, 64)


def test_a_payload_of_100_mb_is_an_invalid_argument_and_the_server_goes_on(client, images):
    grpc_image = np.full((100, 1000, 1000, 1), 200, np.uint8)
    rest_image = np.array([b"A" * 10**8], object)  # a number a pixel would take minutes
    over_grpc = type(client.transport).__name__ == "GrpcTransport"
    inputs = {"image": grpc_image if over_grpc else rest_image}
    with pytest.raises(ServingError) as failure:
        client.transport.call(client.model, "features", inputs, client.signatures["features"])
    assert failure.value.code == "INVALID_ARGUMENT"
    assert client.features(images).shape == (12, 64)


def test_a_model_that_is_not_served_is_not_found(served, client):
    with pytest.raises(ServingError) as failure:
        client.transport.call("another", "initial_head", {"ways": np.int32(2)}, None)
    assert failure.value.code == "NOT_FOUND"


def test_a_signature_that_does_not_exist_is_refused(client):
    with pytest.raises(ServingError) as failure:
        client.transport.call(client.model, "fly", {}, Signature({}, {}))
    assert failure.value.code in ("FAILED_PRECONDITION", "INVALID_ARGUMENT")


def test_content_that_is_shorter_than_its_shape_is_refused(served, images):
    if "grpc" not in served.urls:
        pytest.skip("a fault that JSON cannot have")
    with FewShotClient(served.urls["grpc"], served.manifest) as client:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = client.model
        request.model_spec.signature_name = "features"
        image = request.inputs["image"]
        image.dtype = 4  # uint8
        for size in (1, 28, 28, 1):
            image.tensor_shape.dim.add(size=size)
        image.tensor_content = b"short"
        with pytest.raises(grpc.RpcError) as failure:
            client.transport._stub.Predict(request, timeout=10)
        assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert client.features(images).shape == (12, 64)


def test_many_threads_share_a_client(client, offline, images):
    def ask(seed):
        rows = np.random.default_rng(seed).permutation(12)
        head = client.learn(images[rows[:6]], LABELS)
        return rows, client.predict(images[rows[6:]], head)

    with futures.ThreadPoolExecutor(8) as pool:
        for rows, probabilities in pool.map(ask, range(16)):
            adapted = expected_head(offline, images[rows[:6]], LABELS, 3)
            features = offline.features(images[rows[6:]])
            _, expected = offline.predict(features, adapted.kernel, adapted.bias)
            np.testing.assert_allclose(probabilities, expected, **CLOSE)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A key, and a certificate of one's own for `localhost`."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on the PATH")
    folder = tmp_path_factory.mktemp("certificate")
    made = Certificate(folder / "key.pem", folder / "chain.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
         "-keyout", made.key, "-out", made.chain],
        check=True, capture_output=True,
    )  # fmt: skip
    return made


def test_a_client_brings_a_token_and_trusts_an_authority(bundle, certificate, images):
    manifest = read_manifest(bundle)
    versions = {1: bundle / "saved_model" / "1"}
    name = served_name(manifest.name)
    with serve(name, versions, token="secret", certificate=certificate) as urls:
        for url in urls.values():
            trusted = {"ca_file": certificate.chain}
            token = {"headers": {"Authorization": "Bearer secret"}}
            with FewShotClient(url, manifest, **trusted, **token) as client:
                assert client.learn(images[:6], LABELS).kernel.shape == (64, 3)
            with FewShotClient(url, manifest, **trusted) as client:
                with pytest.raises(ServingError, match="no token") as failure:
                    client.call("initial_head", ways=2)
            assert failure.value.code == "UNAUTHENTICATED"
            with FewShotClient(url, manifest, timeout=3, **token) as client:
                with pytest.raises(ServingError) as failure:  # nobody it knows has signed
                    client.call("initial_head", ways=2)
            assert failure.value.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")


def test_certificates_without_tls_are_refused(served, tmp_path):
    with pytest.raises(ValueError, match="use https://. Received: url='http://localhost'"):
        FewShotClient("http://localhost", served.manifest, ca_file=tmp_path / "ca.pem")
    with pytest.raises(FileNotFoundError, match="no file of certificates"):
        FewShotClient("grpcs://localhost", served.manifest, ca_file=tmp_path / "ca.pem")


class Flaky(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Answers with a failure a few times, then properly."""

    def __init__(self, code, failures, delay=0.0):
        self.code, self.failures, self.delay, self.calls = code, failures, delay, 0

    def Predict(self, request, context):  # noqa: N802
        self.calls += 1
        time.sleep(self.delay)
        if self.calls <= self.failures:
            context.abort(self.code, "not now")
        return predict_pb2.PredictResponse()


@pytest.fixture
def flaky_grpc(served):
    servers, clients = [], []

    def start(code, failures, delay=0.0, timeout=20.0):
        servicer = Flaky(code, failures, delay)
        server = grpc.server(futures.ThreadPoolExecutor(2))
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("localhost:0")
        server.start()
        servers.append(server)
        client = FewShotClient(f"grpc://localhost:{port}", served.manifest, timeout=timeout)
        clients.append(client)
        return servicer, client

    yield start
    for client in clients:
        client.close()
    for server in servers:
        server.stop(None).wait()


def test_grpc_asks_again_when_the_server_is_unavailable(flaky_grpc):
    servicer, client = flaky_grpc(grpc.StatusCode.UNAVAILABLE, failures=2)
    assert client.call("initial_head", ways=2) == {}
    assert servicer.calls == 3


def test_grpc_gives_up_after_a_few_times(flaky_grpc):
    servicer, client = flaky_grpc(grpc.StatusCode.UNAVAILABLE, failures=99)
    with pytest.raises(ServingError, match="UNAVAILABLE: not now"):
        client.call("initial_head", ways=2)
    assert servicer.calls == 4


def test_grpc_repeats_nothing_else(flaky_grpc):
    servicer, client = flaky_grpc(grpc.StatusCode.RESOURCE_EXHAUSTED, failures=1)
    with pytest.raises(ServingError, match="RESOURCE_EXHAUSTED"):
        client.call("initial_head", ways=2)
    assert servicer.calls == 1


def test_grpc_does_not_wait_for_ever(flaky_grpc):
    _, client = flaky_grpc(grpc.StatusCode.OK, failures=0, delay=2.0, timeout=0.2)
    with pytest.raises(ServingError) as failure:
        client.call("initial_head", ways=2)
    assert failure.value.code == "DEADLINE_EXCEEDED"


@pytest.fixture
def flaky_rest(served):
    servers = []

    def start(status, failures, delay=0.0, timeout=20.0):
        class Handler(BaseHTTPRequestHandler):
            calls = 0

            def do_POST(self):  # noqa: N802
                type(self).calls += 1
                self.rfile.read(int(self.headers["Content-Length"]))
                time.sleep(delay)
                head = {"kernel": [[0.0, 0.0]], "bias": [0.0, 0.0]}
                self.send_response(status if self.calls <= failures else 200)
                self.end_headers()
                body = b"not JSON" if self.calls <= failures else json_bytes({"outputs": head})
                self.wfile.write(body)

            def log_message(self, *arguments):
                pass

        server = HTTPServer(("localhost", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        servers.append((server, thread))
        url = f"http://localhost:{server.server_port}"
        return Handler, FewShotClient(url, served.manifest, timeout=timeout)

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


def json_bytes(content):
    import json

    return json.dumps(content).encode()


def test_rest_asks_again_when_the_server_is_unavailable(flaky_rest):
    handler, client = flaky_rest(503, failures=2)
    with client:
        assert set(client.call("initial_head", ways=2)) == {"kernel", "bias"}
    assert handler.calls == 3


def test_rest_gives_up_after_a_few_times(flaky_rest):
    handler, client = flaky_rest(503, failures=99)
    with client, pytest.raises(ServingError, match="UNAVAILABLE: HTTP status 503"):
        client.call("initial_head", ways=2)
    assert handler.calls == 4


@pytest.mark.parametrize(
    ("status", "code"), [(400, "INVALID_ARGUMENT"), (429, "UNKNOWN"), (500, "UNKNOWN")]
)
def test_rest_repeats_nothing_else(flaky_rest, status, code):
    handler, client = flaky_rest(status, failures=1)
    with client, pytest.raises(ServingError) as failure:
        client.call("initial_head", ways=2)
    assert (failure.value.code, handler.calls) == (code, 1)


def test_rest_does_not_wait_for_ever(flaky_rest):
    handler, client = flaky_rest(200, failures=0, delay=1.0, timeout=0.2)
    with client, pytest.raises(ServingError) as failure:
        client.call("initial_head", ways=2)
    assert (failure.value.code, handler.calls) == ("DEADLINE_EXCEEDED", 1)


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_server_that_is_not_there_is_unavailable(served, scheme):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    with FewShotClient(f"{scheme}://localhost:{port}", served.manifest) as client:
        with pytest.raises(ServingError) as failure:
            client.call("initial_head", ways=2)
    assert failure.value.code == "UNAVAILABLE"


def test_a_client_opens_a_manifest_by_its_path_or_a_folder(served):
    for path in (served.bundle, served.bundle / "manifest.json", str(served.bundle)):
        with FewShotClient("http://localhost:1", path) as client:
            assert client.manifest == served.manifest


def test_a_path_without_a_manifest_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="manifest.json"):
        FewShotClient("http://localhost:1", tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a valid manifest"):
        FewShotClient("http://localhost:1", tmp_path)


@pytest.mark.parametrize("url", ["localhost:8500", "ftp://localhost", "grpc://", ""])
def test_another_form_of_url_is_refused(served, url):
    with pytest.raises(ValueError, match="url must be grpc://host:port"):
        FewShotClient(url, served.manifest)


def test_a_rest_client_imports_neither_tensorflow_nor_grpc(served):
    program = (
        "import sys; from pathlib import Path; from anil_tf.export.manifest import Manifest; "
        "from anil_tf.export.client import FewShotClient; "
        f"text = Path({str(served.bundle / 'manifest.json')!r}).read_bytes(); "
        "FewShotClient('http://localhost:1', Manifest.model_validate_json(text)).close(); "
        "print({'tensorflow', 'keras', 'grpc'} & set(sys.modules))"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert process.stdout.strip() == "set()", process.stderr
