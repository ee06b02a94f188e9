"""The groups of params.yaml about training: the baseline, fine-tuning, and the settings of the loop they share."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tuwen.core.params.data import Count, Policy, Positive, Strict
from tuwen.core.params.model import Start


class Select(Strict):
    """Which state of a training becomes the model: the one with the best mean of the two hit@5 on valid."""

    epochs: bool  # every epoch is a candidate, not the last one alone
    # WiSE-FT: weighted means of tuned and baseline weights are candidates too; shares of the tuned ones
    wise_ft: list[Annotated[float, Field(gt=0, lt=1)]]
    soup: bool  # the mean of the weights of those epochs whose means do best is one too; all are kept until then


class Loop(Strict):
    """The settings of the training loop that all trainings have."""

    epochs: Count
    batch_size: Count  # pairs per step, of all processes together
    lr: Annotated[float, Field(gt=0)]  # peak learning rate of AdamW
    muon_lr: Annotated[float, Field(gt=0)] | None  # of Muon, for the layers' hidden matrices; null: AdamW for all
    weight_decay: Annotated[float, Field(ge=0)]  # of matrices; never of norms, biases, embeddings
    warmup_steps: Annotated[int, Field(ge=0)]
    max_grad_norm: Annotated[float, Field(gt=0)]  # a longer gradient is scaled down to it
    # of a step; the weights stay float32. bf16: autocast; without units for it a GPU takes fp16 with a scaled
    # loss, a CPU fp32. tf32: as fp32, but a GPU rounds the factors of products to 10 bits
    precision: Literal["fp32", "tf32", "bf16"]
    deterministic: bool  # the same bits in each run; off, a GPU may take faster kernels
    # decay per step of an average of the weights, which is one more candidate on valid; null: none
    ema: Annotated[float, Field(gt=0, lt=1)] | None
    select: Select


class SoftTargets(Strict):
    """What a momentum teacher adds to the contrastive loss, as in R2D2 (TgD)."""

    alpha: Annotated[float, Field(ge=0, le=1)]  # its share of the targets, from 0 to this over the first epoch
    queue: Annotated[int, Field(ge=0)]  # earlier pairs, by their vectors then, that each pair is compared with too
    half_life: Count  # a pair of the queue weighs half once so many newer ones stand before it


class Distil(SoftTargets):
    """Learning from an average of the model's own weights beside the pairs."""

    momentum: Annotated[float, Field(gt=0, lt=1)]  # of the average, per step
    # FgD: how much it weighs in the loss that the vector of a text with hidden words is the teacher's of the whole
    # text; 0: no word is hidden
    fgd: Annotated[float, Field(ge=0)] = 0.0
    hidden_share: Annotated[float, Field(gt=0, lt=1)] = 0.15  # of the words, where fgd is above 0; R2D2's


class Fit(Loop):
    """The settings of one training of the dual encoder; the same loop pre-trains and fine-tunes."""

    # learning rate of a layer of a tower, as a share of that of the layer above it; 1.0: one rate for all
    layer_decay: Annotated[float, Field(gt=0, le=1)]
    tower_lr: (
        Annotated[float, Field(gt=0)] | None
    )  # of AdamW, for the towers; null: lr, as the projections have it
    # the first so many dimensions are trained to answer by themselves too, the most first; []: all together alone
    matryoshka: list[Count]
    chunk: Count | None  # pairs that a process takes through the towers at once (GradCache); null: its whole share
    gradient_checkpointing: bool  # compute activations again in the backward pass instead of keeping them
    compile: bool  # torch.compile for both towers: faster on a GPU after minutes of compiling
    # of several processes: each keeps a copy of the model, or a share of all its weights (FSDP2)
    shard: Literal["none", "full"]
    # LiT: keep this tower and its projection unchanged; towers: both, and train their projections alone, over what
    # the towers made of each view once
    freeze: Literal["none", "text", "image", "towers"]
    # what pairs of one picture or one caption are to each other; apart: never in one batch; masked: positives, and
    # of all others no pair is a negative that the weights at the start hold for as alike as the true ones
    siblings: Literal["positives", "negatives", "apart", "masked"]
    # of masked: by how much less a cosine may be than those of both true pairs, more where it is negative
    mask_margin: Annotated[float, Field(ge=-1, le=1)] | None
    # SigLIP's loss, each pair for itself, with a bias; false: CLIP's, unless the first weights bring a bias
    sigmoid: bool
    distil: Distil | None  # null: from the pairs alone
    all_patches_epochs: Annotated[int, Field(ge=0)]  # at the end, without image.patch_dropout, as FLIP ends

    @model_validator(mode="after")
    def _check_frozen(self) -> "Fit":
        if self.freeze == "towers":
            switches = {"chunk": "null", "muon_lr": "null", "distil": "null"}
            switches |= {"gradient_checkpointing": "false", "compile": "false", "tower_lr": "null"}
            if self.shard != "none":
                raise ValueError("shard must be none where freeze is towers: projections are small")
            if self.layer_decay != 1:
                raise ValueError("layer_decay must be 1.0 where freeze is towers: no layer of theirs is trained")
            for name, off in switches.items():
                if getattr(self, name):
                    raise ValueError(f"{name} must be {off} where freeze is towers: it is for what they compute")
        if self.freeze == "text" and self.distil and self.distil.fgd:
            raise ValueError("distil.fgd must be 0 where freeze is text: it trains that tower alone")
        return self

    @model_validator(mode="after")
    def _check_matryoshka(self) -> "Fit":
        if self.matryoshka != sorted(set(self.matryoshka), reverse=True):
            raise ValueError(f"matryoshka must hold falling dimensions, no one twice, got {self.matryoshka}")
        return self

    @model_validator(mode="after")
    def _check_loss(self) -> "Fit":
        if (self.siblings == "masked") != (self.mask_margin is not None):
            raise ValueError("mask_margin must be a number where siblings is masked, and null elsewhere")
        if self.sigmoid and self.distil:
            raise ValueError("sigmoid must be false where distil is not null: its targets are shares of a softmax")
        if self.siblings == "masked" and (self.distil or self.shard != "none"):
            raise ValueError("siblings: masked needs distil: null and shard: none")
        if self.all_patches_epochs and (
            self.freeze in ("image", "towers") or self.all_patches_epochs > self.epochs
        ):
            raise ValueError("all_patches_epochs must be 0 where the picture tower is frozen, and at most epochs")
        return self

    @model_validator(mode="after")
    def _check_shard(self) -> "Fit":
        if self.shard == "full" and (self.muon_lr is not None or self.distil or self.compile):
            raise ValueError(
                "shard: full needs muon_lr: null, distil: null and compile: false: they want whole weights"
            )
        return self


class Baseline(Strict):
    """The model before it sees a labelled pair: first weights, pre-trained on the corpus unless `fit` is null."""

    seed: int
    start: Start
    weights: dict[str, Positive]  # corpus source -> how often an epoch shows each of its pairs; 1 if not named
    policy: Policy | None  # views of the corpus; null where `fit` is
    views: Count | None  # of each pair, shown in turn by the epochs; null: each epoch shows a new one
    fit: Fit | None  # null: the weights of `start` as they are

    @model_validator(mode="after")
    def _check_masked(self) -> "Baseline":
        if self.fit and self.fit.siblings == "masked" and self.start.kind in ("fresh", "open_clip", "wheels"):
            raise ValueError("fit.siblings must not be masked: projections of start are fresh and know nothing")
        return self


class Finetune(Strict):
    """Fine-tuning of the baseline on the augmented views."""

    seed: int
    refit_all: bool  # train once more, on the views of all of augment.splits: a model for `predict` alone
    fit: Fit
