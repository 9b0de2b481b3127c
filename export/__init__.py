"""From a trained run to a bundle that runs: SavedModel, ONNX and LiteRT, verified.

A bundle is a folder. `export_bundle` writes it, `Predictor` learns and predicts with it,
`open_bundle` runs it, `verify_bundle` compares every runtime in it with a float64 reference.
"""

from typing import TYPE_CHECKING

from anil_tf.support.lazy import hand_on

if TYPE_CHECKING:
    from anil_tf.export.bulk import adapt_many as adapt_many
    from anil_tf.export.bulk import read_heads as read_heads
    from anil_tf.export.bundle import export_bundle as export_bundle
    from anil_tf.export.client import FewShotClient as FewShotClient
    from anil_tf.export.manifest import Manifest as Manifest
    from anil_tf.export.manifest import read_manifest as read_manifest
    from anil_tf.export.predictor import Predictor as Predictor
    from anil_tf.export.runtime import open_bundle as open_bundle
    from anil_tf.export.serving.head_store import FolderStore as FolderStore
    from anil_tf.export.serving.head_store import RedisStore as RedisStore
    from anil_tf.export.verify import verify_bundle as verify_bundle

_TARGETS = {
    "export_bundle": "anil_tf.export.bundle:export_bundle",
    "verify_bundle": "anil_tf.export.verify:verify_bundle",
    "open_bundle": "anil_tf.export.runtime:open_bundle",
    "Manifest": "anil_tf.export.manifest:Manifest",
    "read_manifest": "anil_tf.export.manifest:read_manifest",
    "Predictor": "anil_tf.export.predictor:Predictor",
    "FewShotClient": "anil_tf.export.client:FewShotClient",
    "FolderStore": "anil_tf.export.serving.head_store:FolderStore",
    "RedisStore": "anil_tf.export.serving.head_store:RedisStore",
    "adapt_many": "anil_tf.export.bulk:adapt_many",
    "read_heads": "anil_tf.export.bulk:read_heads",
}

__all__ = [
    "FewShotClient",
    "FolderStore",
    "Manifest",
    "Predictor",
    "RedisStore",
    "adapt_many",
    "export_bundle",
    "open_bundle",
    "read_heads",
    "read_manifest",
    "verify_bundle",
]

__getattr__, __dir__ = hand_on(__name__, _TARGETS)
