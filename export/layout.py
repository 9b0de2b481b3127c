"""The places of files in a bundle."""

MANIFEST = "manifest.json"
MODEL_CARD = "README.md"
VERIFICATION = "verification.npz"
ADAPT_SCRIPT = "adapt.py"

# TensorFlow Serving watches `saved_model/`; its subfolders are versions.
SAVED_MODEL = "saved_model/1"
WARMUP = f"{SAVED_MODEL}/assets.extra/tf_serving_warmup_requests"
# Configuration of servers; not a format.
SERVING = "serving"

# The signature that each ONNX file computes. `adapt_and_predict` has none: it would store the
# backbone's weights a second time, and is three calls for whoever runs ONNX.
ONNX = {
    "features": "onnx/backbone.onnx",
    "initial_head": "onnx/initial_head.onnx",
    "adapt": "onnx/adapt.onnx",
    "predict": "onnx/predict.onnx",
}
# Missing in bundles of versions up to 0.2: all else of these works without it.
ONNX_SIMILARITY = {"similarity": "onnx/similarity.onnx"}
# `features` with convolutions in 8-bit integers.
ONNX_INT8 = "onnx/backbone_int8.onnx"
ONNX_INT8_ORT = "onnx/backbone_int8.ort"

# The same signatures in one file each: of any size, of fixed shapes, with 8-bit convolutions.
LITERT = "litert/model.tflite"
LITERT_STATIC = "litert/model_static.tflite"
LITERT_INT8 = "litert/model_int8.tflite"

# For TensorFlow Lite Micro: one function per file, of fixed shapes, and each as a C array.
TFLM = {
    name: f"tflm/{name}.tflite"
    for name in ("features", "initial_head", "adapt", "predict", "similarity")
}
