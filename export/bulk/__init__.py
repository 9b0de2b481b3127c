"""A head for each of very many tasks; the names below need pyarrow when they are used."""

from typing import TYPE_CHECKING

from anil_tf.support.lazy import hand_on

if TYPE_CHECKING:
    from anil_tf.export.bulk.run import read_heads as read_heads

__all__ = ["read_heads"]

__getattr__, __dir__ = hand_on(__name__, {"read_heads": "anil_tf.export.bulk.run:read_heads"})
