"""Pictures as files: the decoder in the graph against Python's, and the signatures that use it."""

import base64
import json

import numpy as np
import pytest
import tensorflow as tf
import urllib3
from PIL import Image

from anil_tf.datasets.inputs import encode_pictures
from anil_tf.datasets.pictures import read_image
from anil_tf.export.client import FewShotClient
from anil_tf.export.runtime import open_bundle
from anil_tf.export.serving.files import served_name
from anil_tf.export.serving.transport import ServingError
from anil_tf.export.writers.encoded import decode_pictures
from tests.export.serving.server import serve
from tests.odd_pictures import write_odd_pictures

LABELS = np.array([0, 1, 2, 0, 1, 2])


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A folder of odd pictures, with a large photograph."""
    folder = tmp_path_factory.mktemp("odd")
    names = list(write_odd_pictures(folder))
    rough = np.random.default_rng(0).integers(0, 256, (15, 20, 3), np.uint8)
    Image.fromarray(rough).resize((800, 600)).save(folder / "photo.jpg", quality=90)
    return folder, [*(name for name in names if name.endswith(("jpg", "png"))), "photo.jpg"]


@pytest.mark.parametrize(
    ("shape", "lossy"), [((24, 36, 3), 0), ((16, 16, 1), 0), ((10, 40, 3), 1), ((84, 84, 3), 2)]
)
def test_the_graph_decodes_as_python_does(odd, shape, lossy):
    folder, names = odd
    decode = tf.function(
        lambda encoded: decode_pictures(encoded, shape),
        input_signature=[tf.TensorSpec([None], tf.string)],
    )
    decoded = decode(tf.constant([(folder / name).read_bytes() for name in names])).numpy()
    assert len(names) > 35
    for name, pixels in zip(names, decoded, strict=True):
        expected = read_image(folder / name, shape).astype(int)
        bound = 3 if name == "cmyk.jpg" else lossy  # made larger, a filter rounds otherwise
        np.testing.assert_allclose(pixels, expected, rtol=0, atol=bound, err_msg=name)


def test_files_give_what_pixels_give(served, images):
    heads = {}
    for name, url in served.urls.items():
        with FewShotClient(url, served.manifest) as client:
            head = client.learn(images[:6], LABELS)
            at_once = client.learn_and_predict(images[:6], LABELS, images[6:])
            heads[name] = head.kernel, head.bias, head.support_features, at_once
            assert client._takes_files("learn_encoded") == (name == "http")
    if len(heads) < 2:
        pytest.skip("TF_SERVING_URL names one protocol")
    for one, other in zip(*heads.values(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_model_without_these_signatures_is_sent_numbers(served, images):
    with FewShotClient(served.urls["http"], served.manifest) as client:
        expected = client.learn(images[:6], LABELS)
        client._served[client.model] = frozenset({"features"})
        head = client.learn(images[:6], LABELS)
        np.testing.assert_allclose(head.kernel, expected.kernel, rtol=1e-5, atol=1e-6)


def test_every_encoded_signature_runs_offline_too(bundle, images):
    runtime = open_bundle(bundle, "saved_model")
    files = encode_pictures(images)
    features = runtime.features(images)
    np.testing.assert_allclose(
        runtime.run("features_encoded", encoded=files)["features"], features, rtol=1e-6, atol=1e-6
    )
    rate_and_steps = runtime.inner_lr, runtime.inner_steps
    settings = {"labels": LABELS, "learning_rate": runtime.inner_lr, "steps": runtime.inner_steps}
    learned = runtime.run("learn_encoded", encoded=list(files[:6]), ways=3, **settings)
    adapted = runtime.adapt(features[:6], LABELS, *runtime.initial_head(3), *rate_and_steps)
    np.testing.assert_allclose(learned["adapted_kernel"], adapted.kernel, rtol=1e-5, atol=1e-6)
    assert learned["rows_used"] == 6
    head = {"kernel": learned["adapted_kernel"], "bias": learned["adapted_bias"]}
    predicted = runtime.run("predict_encoded", encoded=files[6:], **head)["probabilities"]
    expected = runtime.predict(features[6:], adapted.kernel, adapted.bias)[1]
    np.testing.assert_allclose(predicted, expected, rtol=1e-4, atol=1e-5)


def claims(height, width):
    """The start of a PNG of that size, which is all that it holds."""
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + size + b"\x08\x02\0\0\0"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "must be the bytes of a JPEG or PNG file"),
        (b"GIF89a....", "must be the bytes of a JPEG or PNG file"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "must be the bytes of a JPEG or PNG file"),
        (b"\xff\xd8\xff\xe0 half a picture", "Invalid JPEG"),
        (claims(9, 9), "Invalid PNG"),
        (claims(2**16, 2**16), "at most 67108864 pixels"),
        (claims(2**31 - 1, 2**31 - 1), "at most 67108864 pixels"),
    ],
    ids=["nothing", "gif", "webp", "half a jpeg", "half a png", "too large", "far too large"],
)
def test_what_cannot_be_decoded_is_an_invalid_argument(client, images, content, said):
    with pytest.raises(ServingError, match=said) as failure:
        client.call("features_encoded", encoded=[content])
    assert failure.value.code == "INVALID_ARGUMENT"
    assert client.features(images).shape == (12, 64)


@pytest.fixture
def ask(served):
    """Asks the REST server as any program does: method, path, content; status and answer."""

    def ask(method, path, content=None):
        body = None if content is None else json.dumps(content).encode()
        response = urllib3.request(method, f"{served.urls['http']}/v1/models/{path}", body=body)
        return response.status, response.json()

    return ask


def test_the_server_tells_its_versions_and_signatures(ask):
    status, answer = ask("GET", "tiny")
    (version,) = answer["model_version_status"]
    assert (status, version["version"], version["state"]) == (200, "1", "AVAILABLE")
    assert ask("GET", "tiny/versions/1") == (200, answer)
    assert ask("GET", "tiny/versions/2")[0] == 404
    status, answer = ask("GET", "tiny/metadata")
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    encoded = signatures["learn_encoded"]["inputs"]["encoded"]
    assert encoded["dtype"] == "DT_STRING"
    assert [axis["size"] for axis in encoded["tensor_shape"]["dim"]] == ["-1"]
    assert answer["model_spec"]["version"] == "1"


def test_rows_are_answered_by_rows(ask, served, images):
    expected = open_bundle(served.bundle, "saved_model").features(images[:2])
    files = [{"b64": base64.b64encode(each).decode()} for each in encode_pictures(images[:2])]
    for rows in (files, [{"encoded": file} for file in files]):
        content = {"signature_name": "features_encoded", "instances": rows}
        status, answer = ask("POST", "tiny:predict", content)
        assert status == 200
        np.testing.assert_allclose(answer["predictions"], expected, rtol=1e-5, atol=1e-6)
    numbers = {"signature_name": "features", "instances": images[:2].tolist()}
    np.testing.assert_allclose(
        ask("POST", "tiny:predict", numbers)[1]["predictions"], expected, rtol=1e-5, atol=1e-6
    )
    both = {"instances": files, "inputs": files}
    assert ask("POST", "tiny:predict", both)[0] == 400


def test_a_client_asks_for_a_version_by_number_or_label(bundle, per_class_bundle, images):
    versions = {1: bundle / "saved_model" / "1", 2: per_class_bundle / "saved_model" / "1"}
    manifest = open_bundle(bundle, "saved_model").manifest
    with serve(served_name(manifest.name), versions, {"stable": 1, "canary": 2}) as urls:
        for url in urls.values():
            columns = {}
            for version in (None, 1, 2, "stable", "canary"):
                with FewShotClient(url, manifest, version=version) as client:
                    columns[version] = client.call("initial_head", ways=6)["bias"].size
            # The head of the second version has a column for each of five classes.
            assert columns == {None: 5, 1: 6, 2: 5, "stable": 6, "canary": 5}
            for version, code in ((3, "NOT_FOUND"), ("old", "INVALID_ARGUMENT")):
                with FewShotClient(url, manifest, version=version) as client:
                    with pytest.raises(ServingError) as failure:
                        client.call("initial_head", ways=2)
                assert failure.value.code == code
