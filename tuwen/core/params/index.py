"""The groups of params.yaml about vectors, and the index that searches are answered from."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from tuwen.core.params.data import Count, Strict


def _check_once(names: list[str]) -> list[str]:
    if len(set(names)) != len(names):
        raise ValueError("must hold no name twice")
    return names


class Embed(Strict):
    """How sets are embedded, and what an index keeps of their vectors."""

    batch_size: Count
    # of the vectors that searches are answered from, in index/; embeddings/, which is measured, is float32
    dtype: Literal["float32", "float16", "int8", "binary"]


class Licence(Strict):
    """Whose a source's pictures are, as the page says it."""

    source: str  # labelled, or a name of `corpus`
    text: str
    link: str


class Exact(Strict):
    """Our own exact search over the vectors as they lie on disk."""

    kind: Literal["exact"]


class Milvus(Strict):
    """Milvus, for what outgrows one machine; TUWEN_MILVUS_URI says where it is."""

    kind: Literal["milvus"]
    index: Literal["FLAT", "HNSW", "IVF_FLAT", "DISKANN"]  # FLAT is exact
    shards: Annotated[int, Field(ge=1, le=64)]  # that a collection is written to
    partitions: Annotated[int, Field(ge=1, le=1024)]  # that items lie in by their source, which filters then skip


IndexStore = Annotated[Exact | Milvus, Field(discriminator="kind")]


class Index(Strict):
    """What the search service answers from."""

    sets: Annotated[
        list[Literal["valid", "test", "bank", "corpus"]], Field(min_length=1), AfterValidator(_check_once)
    ]
    store: IndexStore
    licences: list[Licence]
