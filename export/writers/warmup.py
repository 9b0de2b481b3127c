"""Warm-up requests, which TensorFlow Serving runs on a SavedModel before it accepts requests.

Without them the first request to each signature would be slow. A model that fails its own warm-up
requests is not served at all, so they also detect server settings under which the signatures would
not work.

Source: https://www.tensorflow.org/tfx/serving/saved_model_warmup
"""

from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from anil_tf.datasets.inputs import encode_pictures
from anil_tf.export import layout
from anil_tf.export.serving.files import served_name
from anil_tf.export.serving.grpc_transport import predict_request
from anil_tf.export.signatures import declare_encoded
from anil_tf.export.verify.episodes import ReferenceEpisodes
from anil_tf.export.writers.graphs import Graphs, InitialHead

Requests = list[tuple[str, dict[str, np.ndarray]]]


def choose_requests(episodes: ReferenceEpisodes, head: InitialHead) -> Requests:
    """A request for each signature, of two classes with one image each, and one image to predict.

    They are few, because the file is copied with the weights to every server.

    Args:
        episodes: Episodes of the run's own examples.
        head: Initial head.

    Returns:
        Signature names with input arrays by name, of the declared dtypes.
    """
    v = episodes
    first, second = (int(np.argmax(v.support_labels[0] == label)) for label in (0, 1))
    support = v.support_image[0][[first, second]]
    query = v.query_image[0][:1]
    labels = np.array([0, 1], np.int32)
    start = {"kernel": v.kernel[:, :2], "bias": v.bias[:2]}
    at_once = {"support_image": support, "support_labels": labels, "query_image": query}
    return [
        ("features", {"image": query}),
        ("initial_head", {"ways": np.array(2, np.int32)}),
        (
            "adapt",
            {
                "features": v.support_features[0][[first, second]].astype(np.float32),
                "labels": labels,
                **start,
                "learning_rate": np.array(head.inner_lr, np.float32),
                "steps": np.array(head.inner_steps, np.int32),
            },
        ),
        ("predict", {"features": v.query_features[0][:1].astype(np.float32), **start}),
        (
            "similarity",
            {
                "features": v.query_features[0][:1].astype(np.float32),
                "support_features": v.support_features[0][[first, second]].astype(np.float32),
                "support_labels": labels,
                "ways": np.array(2, np.int32),
            },
        ),
        ("adapt_and_predict", at_once),
        *_encoded_requests(support, labels, query, start, head),
        # The same function under another name, which a server warms up separately.
        ("serving_default", at_once),
    ]


def _encoded_requests(
    support: np.ndarray,
    labels: np.ndarray,
    query: np.ndarray,
    start: dict[str, np.ndarray],
    head: InitialHead,
) -> Requests:
    if not declare_encoded(support.shape[1:], support.dtype.name, len(start["kernel"])):
        return []
    files, asked = encode_pictures(support), encode_pictures(query)
    learned = {
        "encoded": files,
        "labels": labels,
        "learning_rate": np.array(head.inner_lr, np.float32),
        "steps": np.array(head.inner_steps, np.int32),
        "ways": np.array(2, np.int32),
    }
    at_once = {"support_encoded": files, "support_labels": labels, "query_encoded": asked}
    return [
        ("features_encoded", {"encoded": asked}),
        ("learn_encoded", learned),
        ("predict_encoded", {"encoded": asked, **start}),
        ("adapt_and_predict_encoded", at_once),
    ]


def write_warmup(graphs: Graphs, bundle: Path) -> None:
    """Write warm-up requests into the bundle's SavedModel, as `PredictionLog` records.

    Args:
        graphs: Functions of the bundle, with its initial head and its name.
        bundle: Folder of the bundle, with its SavedModel and its verification episodes written.
    """
    model = served_name(graphs.name)
    requests = choose_requests(ReferenceEpisodes.read(bundle), graphs.head)
    path = bundle / layout.WARMUP
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in requests:
            request = predict_request(model, signature, inputs)
            log = prediction_log_pb2.PredictLog(request=request)
            record = prediction_log_pb2.PredictionLog(predict_log=log)
            writer.write(record.SerializeToString())
