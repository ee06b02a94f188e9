"""Which store an index is searched by, as params.yaml's index.store had it when the index was made."""

from tuwen.service.index.exact import ExactStore
from tuwen.service.index.item_index import ItemIndex
from tuwen.service.index.store import Store


def open_store(index: ItemIndex) -> Store:
    """Return the store of an index, ready to be asked. Raises UserError where it cannot be had."""
    if index.params["store"]["kind"] == "milvus":
        from tuwen.service.index.milvus import MilvusStore

        return MilvusStore(index)
    return ExactStore(index)
