"""`serving/`: what an operator needs to put a bundle's SavedModel on TensorFlow Serving."""

import re
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from anil_tf.export import layout

if TYPE_CHECKING:  # a client needs `served_name` without TensorFlow
    from anil_tf.export.writers.graphs import Graphs

SERVER = "2.21.0"  # of the official image, tensorflow/serving

MODELS = """\
# TensorFlow Serving's --model_config_file. Each folder in saved_model/ is a version: the highest
# number is served, and a new one is taken up while the server runs.
model_config_list {
  config {
    name: "$model"
    base_path: "/models/$model/saved_model"
    model_platform: "tensorflow"
  }
}
"""

BATCHING = """\
# Batching of requests, for a model that has the signature `features` alone. NOT for this one.
#
# A batching server joins the requests of different callers: it concatenates each input along its
# first axis and cuts the outputs up again. It does so to every signature of a model, and that is
# right only where one row of every input makes one row of every output:
#
#   features            yes: an image in, a row of features out.
#   adapt               no: `learning_rate` and `steps` have no first axis, those of `features` and
#                       `kernel` differ. Every request would be refused.
#   predict             no: each caller brings a kernel of its own, whose first axis is not the
#                       batch. Refused, or where sizes happen to agree, answered by someone else's.
#   adapt_and_predict   no: joined, two callers' support sets would be learned as one.
#   initial_head        no: `ways` has no first axis.
#
# With --enable_batching alone this model does not load: its warm-up requests fail first. What gains
# from batching is the backbone, on a GPU, for many callers with an image each. It is batched as a
# model of its own, of which examples/serving/features_model.py makes one; this file becomes its
# batching_params.pbtxt. Start the server with all three of
#
#   --enable_batching --enable_per_model_batching_parameters
#   --batching_parameters_file=/models/$model/serving/batching.config
#
# Then a model is batched only if such a file lies in its version folder, and this one is not. An
# image batched with others can differ in the last bits of its features from the image alone.
max_batch_size { value: 64 }
batch_timeout_micros { value: 1000 }
max_enqueued_batches { value: 100 }
num_batch_threads { value: 2 }
"""

DOCKERFILE = """\
# In the folder of the bundle:
#
#   docker build --file serving/Dockerfile --tag $model:1 .
#   docker run --publish 8500:8500 --publish 8501:8501 $model:1
#
# gRPC answers on port 8500, REST on 8501.
ARG VERSION=$server
FROM tensorflow/serving:$${VERSION}
COPY saved_model /models/$model/saved_model
COPY serving /models/$model/serving
CMD ["--model_config_file=/models/$model/serving/models.config"]
"""

KUBERNETES = """\
# Two replicas of the image that serving/Dockerfile builds:
#
#   kubectl apply --filename serving/kubernetes.yaml
#
# The model keeps nothing between requests: any replica answers any caller, and their number can
# change at any time. A gRPC client keeps one connection, so the service is headless and leaves the
# choice of a replica to the client, which asks for it as dns:///$model:8500.
apiVersion: apps/v1
kind: Deployment
metadata:
  name: $model
  labels: {app: $model}
spec:
  replicas: 2
  selector:
    matchLabels: {app: $model}
  template:
    metadata:
      labels: {app: $model}
    spec:
      containers:
        - name: serving
          image: $model:1
          imagePullPolicy: IfNotPresent
          ports:
            - {name: grpc, containerPort: 8500}
            - {name: rest, containerPort: 8501}
          startupProbe:
            httpGet: {path: /v1/models/$model, port: rest}
            periodSeconds: 2
            failureThreshold: 60
          readinessProbe:
            httpGet: {path: /v1/models/$model, port: rest}
          livenessProbe:
            tcpSocket: {port: grpc}
          resources:
            requests: {cpu: "1", memory: 512Mi}
            limits: {memory: 2Gi}
          securityContext:
            allowPrivilegeEscalation: false
            runAsNonRoot: true
            runAsUser: 1000
            capabilities: {drop: [ALL]}
---
apiVersion: v1
kind: Service
metadata:
  name: $model
spec:
  clusterIP: None
  selector: {app: $model}
  ports:
    - {name: grpc, port: 8500, targetPort: grpc}
    - {name: rest, port: 8501, targetPort: rest}
"""

FILES = {
    "models.config": MODELS,
    "batching.config": BATCHING,
    "Dockerfile": DOCKERFILE,
    "kubernetes.yaml": KUBERNETES,
}


def served_name(name: str) -> str:
    """The name that a bundle's model is served under.

    A name for URLs, images and Kubernetes: lower-case letters, digits and single hyphens, a letter
    first, at most 63 in all.
    """
    words = re.findall("[a-z0-9]+", name.lower())
    served = "-".join(words)
    return (served if served[:1].isalpha() else f"model-{served}")[:63].rstrip("-")


def write_serving(graphs: "Graphs", bundle: Path) -> None:
    """Write the configuration of a server, a container and a cluster into a bundle.

    Args:
        graphs: Functions of the bundle, which have its name.
        bundle: Folder of the bundle.
    """
    folder = bundle / layout.SERVING
    folder.mkdir()
    values = {"model": served_name(graphs.name), "server": SERVER}
    for file, text in FILES.items():
        (folder / file).write_text(Template(text).substitute(values), encoding="utf-8")
