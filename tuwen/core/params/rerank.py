"""The group of params.yaml about the re-ranker: layers over the tokens of both towers, and what trains them."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tuwen.core.params.data import Count, Positive, Strict, TwoItems
from tuwen.core.params.training import Loop, SoftTargets

Weight = Annotated[float, Field(ge=0)]  # 0 switches an objective off, and costs nothing


class ImageTokens(Strict):
    """What the tokens of an image are compressed to before they are stored (EDJE)."""

    count: Count
    width: Count


class Objectives(Strict):
    """How much each objective weighs in the loss."""

    gcpr: Weight  # the dual encoder's own contrastive loss, which keeps its vectors good while the towers move
    fgr: Positive  # fine-grained ranking: is this text this picture's?
    mlm: Weight  # masked language modelling: which words are hidden, by the picture
    mrfr: Weight  # masked region modelling: the hidden patch's feature ...
    mrc: Weight  # ... the cluster that it is nearest to ...
    mrc_kl: Weight  # ... its distribution over the clusters
    recovery: Weight  # the text's vector in the dual encoder
    fgd: Weight  # the [CLS] feature of the momentum teacher, which sees the whole text


class MomentumTeacher(Strict):
    """The average of the weights that `fgd` and `tgd` learn from."""

    momentum: Annotated[float, Field(gt=0, lt=1)]  # per step


class Hardness(Strict):
    """How far negatives are drawn by the dual encoder's similarity: 0 at random, 1 as it says.

    R2D2 draws as it says from the first step. A re-ranker that starts from nothing may then stay at the loss of
    one that tells nothing apart: what a text and a picture are about is learned from easy negatives.
    """

    first: Weight
    last: Weight
    ramp: Annotated[float, Field(ge=0, le=1)]  # the share of the training's steps that leads from first to last


class Rerank(Strict):
    """A cross encoder over the towers of the fine-tuned model, which ranks the first k of it once more."""

    seed: int
    # trained: by all objectives together with the layers over them; the model then has vectors of its own
    towers: Literal["frozen", "trained"]
    fusion: Literal["both", "text_image", "co_attention", "joint"]  # tuwen/model/cross_encoder.py
    layers: Count  # of each stream
    width: Count | None  # null: the text tower's, whose last layers it then starts from
    heads: Count | None  # null: the text tower's
    mlp: Count | None  # width inside a block; null: the text tower's
    dropout: Annotated[float, Field(ge=0, lt=1)]
    image_tokens: ImageTokens | None  # null: as the tower gives them
    k: Count  # how many of the dual encoder's first answers are ranked once more, at the most
    # how often an epoch shows each stored pair of the corpus beside the labelled ones; 0: never
    corpus: Weight
    negatives: Count  # hard negative texts of each picture, and pictures of each text, in a step
    hardness: Hardness
    class_weights: Annotated[list[Positive], TwoItems]  # of no match and match in the loss of fgr; R2D2 has [1, 2]
    objectives: Objectives
    hidden_share: Annotated[float, Field(gt=0, lt=1)]  # of the words, and of the patches
    clusters: Count  # of patches, for mrc and mrc_kl
    teacher: MomentumTeacher | None  # null where objectives.fgd is 0 and tgd is null
    tgd: SoftTargets | None  # of gcpr; null: from the pairs alone
    fit: Loop

    @model_validator(mode="after")
    def _check_objectives(self) -> "Rerank":
        weights = self.objectives
        if weights.gcpr and self.towers == "frozen":
            raise ValueError("objectives.gcpr must be 0: it trains the towers alone, and these are frozen")
        if self.tgd and not weights.gcpr:
            raise ValueError("tgd must be null: it is of objectives.gcpr, which is 0")
        if (weights.fgd > 0 or self.tgd is not None) != (self.teacher is not None):
            raise ValueError("objectives.fgd or tgd, and teacher, go together: both, or 0 and null")
        if weights.mrfr or weights.mrc or weights.mrc_kl:
            if self.fusion == "text_image":
                raise ValueError("objectives.mrfr, mrc and mrc_kl must be 0: text_image has no stream of patches")
            if self.image_tokens:
                raise ValueError("objectives.mrfr, mrc and mrc_kl must be 0: compressed tokens are no patches")
        if self.fit.select.wise_ft:
            raise ValueError("fit.select.wise_ft must be []: there are no earlier weights to mix with")
        return self
