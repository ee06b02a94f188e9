"""The models that are ranked against each other, in the order of the reports' columns.

A row more is a column more in both reports, on a run page and in `tuwen results`; docs/architecture.md lists what
else a new model needs.
"""

from typing import NamedTuple


class RankedModel(NamedTuple):
    """One model as people read of it."""

    name: str  # of its folders in embeddings/ and results/
    title: str
    light: str  # its colour on a light ground, also in charts that stand alone ...
    dark: str  # ... and on a dark one
    embeds: bool = True  # False: it reorders what another model finds, so it has no vectors of its own


MODELS = {
    "baseline": RankedModel("baseline", "baseline", light="#8b93a1", dark="#858d9b"),
    "finetuned": RankedModel("finetuned", "fine-tuned", light="#0b6bcb", dark="#5fb0ff"),
}
SHIPPED = "finetuned"  # what models/final is made of: reports show its answers, hubs and classes


def get_base() -> RankedModel:
    """Return the first model: gains are measured from it."""
    return next(iter(MODELS.values()))


def list_rivals() -> list[RankedModel]:
    """Return the models that have a gain: all but the first."""
    return list(MODELS.values())[1:]


def list_titles() -> list[str]:
    """Return the header of each model's column."""
    return [model.title for model in MODELS.values()]


def list_gain_titles() -> list[str]:
    """Return the header of each gain's column, which names the model where there are more than two."""
    rivals = list_rivals()
    return ["gain, points"] if len(rivals) == 1 else [f"{rival.title}: gain, points" for rival in rivals]


def list_embedding() -> list[str]:
    """Return the names of the models that have vectors of their own."""
    return [model.name for model in MODELS.values() if model.embeds]
