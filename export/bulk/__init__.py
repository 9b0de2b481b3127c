"""A head for each of very many tasks. The names below need pyarrow; they are imported when used."""

from typing import TYPE_CHECKING

from anil_tf.support.lazy import hand_on

if TYPE_CHECKING:
    from anil_tf.export.bulk.run import Summary as Summary
    from anil_tf.export.bulk.run import adapt_many as adapt_many
    from anil_tf.export.bulk.run import read_heads as read_heads

__all__ = ["Summary", "adapt_many", "read_heads"]

__getattr__, __dir__ = hand_on(
    __name__, {name: f"anil_tf.export.bulk.run:{name}" for name in __all__}
)
