"""What a bundle holds for TensorFlow Serving: warm-up requests and configuration."""

import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import yaml
from google.protobuf import text_format
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

from anil_tf.export import layout
from anil_tf.export.bundle import export_bundle
from anil_tf.export.manifest import read_manifest
from anil_tf.export.serving.files import served_name
from anil_tf.export.verify.episodes import ReferenceEpisodes
from tests.export.serving.server import Loaded

SIGNATURES = [
    "features",
    "initial_head",
    "adapt",
    "predict",
    "similarity",
    "adapt_and_predict",
    "features_encoded",
    "learn_encoded",
    "predict_encoded",
    "adapt_and_predict_encoded",
]


def read_warmup(bundle):
    requests = []
    for record in tf.data.TFRecordDataset(str(bundle / layout.WARMUP)):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        assert log.WhichOneof("log_type") == "predict_log"
        request = log.predict_log.request
        inputs = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
        requests.append((request.model_spec, inputs))
    return requests


def test_there_is_a_warm_up_request_for_every_signature(bundle):
    specs = [spec for spec, _ in read_warmup(bundle)]
    assert [spec.signature_name for spec in specs] == [*SIGNATURES, "serving_default"]
    assert {spec.name for spec in specs} == {"tiny"}


@pytest.mark.parametrize("name", ["bundle", "per_class_bundle"])
def test_every_warm_up_request_is_answered(request, name):
    bundle = request.getfixturevalue(name)
    servable = Loaded(bundle / layout.SAVED_MODEL)
    for spec, inputs in read_warmup(bundle):
        outputs = servable.run(servable.signature(spec.signature_name), inputs)
        for value in outputs.values():
            assert np.isfinite(value).all() and np.size(value)
        if spec.signature_name == "adapt":
            assert outputs["rows_used"] == 2 and outputs["final_loss"] < outputs["initial_loss"]


def test_warm_up_images_are_the_runs_own(bundle):
    (image,) = (inputs["image"] for spec, inputs in read_warmup(bundle) if "image" in inputs)
    own = ReferenceEpisodes.read(bundle).query_image[0]
    assert any(np.array_equal(image[0], other) for other in own)


def test_saved_model_cli_finds_no_denylisted_operation(bundle):
    done = subprocess.run(
        [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli", "scan",
         "--dir", bundle / layout.SAVED_MODEL, "--tag_set", "serve"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "does not contain the default denylisted ops" in done.stdout


def test_the_server_configuration_names_the_folder_of_versions(bundle):
    text = (bundle / layout.SERVING / "models.config").read_text(encoding="utf-8")
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert (model.name, model.model_platform) == ("tiny", "tensorflow")
    assert model.base_path == "/models/tiny/saved_model"
    assert (bundle / "saved_model" / "1" / "saved_model.pb").is_file()


def test_no_setting_batches_the_model(bundle):
    # Where this file lies in a version folder, a server joins requests of different callers.
    assert not list((bundle / "saved_model").rglob("batching_params.pbtxt"))
    for file in (bundle / layout.SERVING).iterdir():
        settings = re.sub("#.*", "", file.read_text(encoding="utf-8"))
        assert "enable_batching" not in settings


def test_the_container_holds_what_its_configuration_names(bundle):
    text = (bundle / layout.SERVING / "Dockerfile").read_text(encoding="utf-8")
    copies = dict(re.findall(r"^COPY (\S+) (\S+)$", text, re.MULTILINE))
    assert copies == {"saved_model": "/models/tiny/saved_model", "serving": "/models/tiny/serving"}
    assert all((bundle / source).is_dir() for source in copies)
    assert "--model_config_file=/models/tiny/serving/models.config" in text
    assert re.search(r"^FROM tensorflow/serving:\$\{VERSION\}$", text, re.MULTILINE)


def test_the_cluster_manifest_fits_together(bundle):
    text = (bundle / layout.SERVING / "kubernetes.yaml").read_text(encoding="utf-8")
    deployment, service = yaml.safe_load_all(text)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels == service["spec"]["selector"]
    assert container["image"] == "tiny:1"
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": 8500, "rest": 8501}
    assert {port["targetPort"] for port in service["spec"]["ports"]} == set(ports)
    assert container["readinessProbe"]["httpGet"] == {"path": "/v1/models/tiny", "port": "rest"}


def test_metrics_and_draining_are_configured(bundle):
    folder = bundle / layout.SERVING
    monitoring = (folder / "monitoring.config").read_text(encoding="utf-8")
    (path,) = re.findall(r'path: "(\S+)"', monitoring)
    deployment, _ = yaml.safe_load_all((folder / "kubernetes.yaml").read_text(encoding="utf-8"))
    template = deployment["spec"]["template"]
    assert template["metadata"]["annotations"]["prometheus.io/path"] == path
    assert "/models/tiny/serving/monitoring.config" in (folder / "Dockerfile").read_text("utf-8")
    (container,) = template["spec"]["containers"]
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pause < template["spec"]["terminationGracePeriodSeconds"]


def test_the_comment_on_labels_is_valid_configuration(bundle):
    text = (bundle / layout.SERVING / "models.config").read_text(encoding="utf-8")
    text = re.sub(r"^    #   ", "    ", text, flags=re.MULTILINE)
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert dict(model.version_labels) == {"stable": 1, "canary": 2}
    assert list(model.model_version_policy.specific.versions) == [1, 2]


def test_configuration_is_no_format(bundle):
    assert read_manifest(bundle).formats == ["litert", "onnx", "saved_model"]


def test_a_bundle_without_a_saved_model_has_no_configuration(run, tmp_path):
    export_bundle(run, tmp_path / "bundle", ["onnx"])
    assert not (tmp_path / "bundle" / layout.SERVING).exists()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("omniglot-5way-1shot", "omniglot-5way-1shot"),
        ("My model_2 (new)", "my-model-2-new"),
        ("5way", "model-5way"),
        ("漢字", "model"),
        ("a" * 62 + "-b", "a" * 62),
    ],
)
def test_a_served_name_is_good_for_urls_images_and_clusters(name, expected):
    assert served_name(name) == expected
    assert re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", served_name(name))
