"""The models that are ranked against each other, in the order of the reports' columns.

A row more is a column more in both reports, on a run page and in `tuwen results`; docs/architecture.md lists what
else a new model needs.
"""

from collections.abc import Iterable
from typing import NamedTuple


class RankedModel(NamedTuple):
    """One model as people read of it."""

    name: str  # of its folders in embeddings/ and results/
    title: str
    light: str  # its colour on a light ground, also in charts that stand alone ...
    dark: str  # ... and on a dark one
    reorders: str | None = None  # the model whose first answers it orders anew; it has no vectors of its own

    @property
    def embeds(self) -> bool:
        """Whether it has vectors of its own; one without them may be switched off, and then has no results."""
        return self.reorders is None


MODELS = {
    "baseline": RankedModel("baseline", "baseline", light="#8b93a1", dark="#858d9b"),
    "finetuned": RankedModel("finetuned", "fine-tuned", light="#0b6bcb", dark="#5fb0ff"),
    "reranked": RankedModel("reranked", "re-ranked", light="#8a3ffc", dark="#be95ff", reorders="finetuned"),
}
SHIPPED = "finetuned"  # what models/final is made of: reports show its answers, hubs and classes


def get_base() -> RankedModel:
    """Return the first model: gains are measured from it."""
    return next(iter(MODELS.values()))


def find_before(name: str) -> RankedModel:
    """Return the model whose first answers the one of this name orders anew."""
    reordered = MODELS[name].reorders
    assert reordered is not None, f"{name} has vectors of its own"
    return MODELS[reordered]


def list_rivals(names: Iterable[str]) -> list[RankedModel]:
    """Return those of the measured models that have a gain: all but the first."""
    return [MODELS[name] for name in names][1:]


def list_titles(names: Iterable[str]) -> list[str]:
    """Return the header of each measured model's column."""
    return [MODELS[name].title for name in names]


def list_gain_titles(names: Iterable[str]) -> list[str]:
    """Return the header of each gain's column, which names the model where more than two were measured."""
    rivals = list_rivals(names)
    return ["gain, points"] if len(rivals) == 1 else [f"{rival.title}: gain, points" for rival in rivals]


def list_embedding(names: Iterable[str]) -> list[str]:
    """Return those of the models that have vectors of their own."""
    return [name for name in names if MODELS[name].embeds]
