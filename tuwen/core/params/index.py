"""The group of params.yaml about the index that searches are answered from."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from tuwen.core.params.data import Strict


def _check_once(names: list[str]) -> list[str]:
    if len(set(names)) != len(names):
        raise ValueError("must hold no name twice")
    return names


class Licence(Strict):
    """Whose a source's pictures are, as the page says it."""

    source: str  # labelled, or a name of `corpus`
    text: str
    link: str


class Exact(Strict):
    """Our own exact search over the vectors as they lie on disk."""

    kind: Literal["exact"]


class Index(Strict):
    """What the search service answers from."""

    sets: Annotated[
        list[Literal["valid", "test", "bank", "corpus"]], Field(min_length=1), AfterValidator(_check_once)
    ]
    store: Exact
    licences: list[Licence]
