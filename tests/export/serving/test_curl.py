"""The commands of docs/serving.md do what it says, against the server."""

import json
import re
import shutil
import subprocess
from urllib.parse import urlparse

import numpy as np
import pytest
from PIL import Image

from anil_tf.export.client import FewShotClient

PICTURES = {"cat1.jpg": 20, "cat2.jpg": 30, "dog1.jpg": 220, "dog2.jpg": 230, "new.png": 225}


@pytest.fixture(scope="module")
def answers(repository, served, tmp_path_factory):
    """The folder of the pictures, and the response to each `curl`, in the order of the page."""
    if missing := [tool for tool in ("bash", "curl", "jq") if shutil.which(tool) is None]:
        pytest.skip(f"no {', '.join(missing)} on the PATH")
    if "http" not in served.urls:
        pytest.skip("TF_SERVING_URL has no http URL")
    folder = tmp_path_factory.mktemp("curl")
    rng = np.random.default_rng(0)
    for name, shade in PICTURES.items():
        noise = rng.normal(shade, 8, (28, 28)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noise).save(folder / name)
    page = (repository / "docs" / "serving.md").read_text("utf-8")
    script = "\n".join(re.findall(r"^```sh\n(.*?)^```", page, re.M | re.S))
    script = script.replace("localhost:8501", urlparse(served.urls["http"]).netloc)
    script = script.replace("/models/glyphs", "/models/tiny")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    decoder, found, text = json.JSONDecoder(), [], done.stdout.strip()
    while text:
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:].strip()
    return folder, found


def test_curl_learns_and_predicts(answers, served):
    folder, (status, metadata, at_once, later, rows) = answers
    assert status["model_version_status"][0]["state"] == "AVAILABLE"
    assert "learn_encoded" in metadata["metadata"]["signature_def"]["signature_def"]
    with FewShotClient(served.urls["http"], served.manifest) as client:
        files = [folder / name for name in PICTURES]
        head = client.learn(files[:4], [0, 0, 1, 1])
        expected = client.predict(files[4], head)
        features = client.features(files[4])
    assert expected.argmax() == 1  # the light one is a dog
    np.testing.assert_allclose(at_once["outputs"], expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(later["outputs"]["probabilities"], expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(rows["predictions"], features, rtol=1e-3, atol=1e-4)
