"""The groups of params.yaml about training: the baseline, fine-tuning, and the loop that they share."""

from typing import Annotated, Literal

from pydantic import Field

from tuwen.core.params.data import Count, Policy, Positive, Strict
from tuwen.core.params.model import Start


class Select(Strict):
    """Which state of a training becomes the model: by the mean of the two hit@5 on valid."""

    epochs: bool  # the best epoch may win over the last one
    wise_ft: list[Annotated[float, Field(gt=0, lt=1)]]  # shares of the tuned weights in a mean with the baseline's


class Fit(Strict):
    """One training: the same loop pre-trains and fine-tunes."""

    epochs: Count
    batch_size: Count  # pairs per step, of all processes together
    chunk: Count | None  # pairs that a process takes through the towers at once (GradCache); null: its whole share
    lr: Annotated[float, Field(gt=0)]  # peak learning rate of AdamW
    muon_lr: Annotated[float, Field(gt=0)] | None  # of Muon, for the towers' hidden matrices; null: AdamW for all
    weight_decay: Annotated[float, Field(ge=0)]  # of matrices; never of norms, biases, embeddings
    warmup_steps: Annotated[int, Field(ge=0)]
    max_grad_norm: Annotated[float, Field(gt=0)]
    precision: Literal["fp32", "bf16"]  # autocast, fp32 where no unit computes in bf16; the weights stay fp32
    gradient_checkpointing: bool  # compute activations again in the backward pass instead of keeping them
    compile: bool  # torch.compile for both towers: faster on a GPU after minutes of compiling
    freeze: Literal["none", "text", "image"]  # LiT: keep this tower and its projection as they are
    siblings: Literal["positives", "negatives", "apart"]  # of one picture or caption; apart: never in one batch
    ema: Annotated[float, Field(gt=0, lt=1)] | None  # decay per step of an average of the weights, one more state
    select: Select


class Baseline(Strict):
    """The model before it sees a labelled pair: first weights, pre-trained on the corpus where there is a fit."""

    seed: int
    start: Start
    weights: dict[str, Positive]  # corpus source -> how often an epoch shows each of its pairs; 1 where not named
    policy: Policy | None  # of the pairs that it is pre-trained on
    fit: Fit | None  # null: the weights of `start` as they are


class Finetune(Strict):
    """Fine-tuning on the augmented views."""

    seed: int
    refit_all: bool  # for `predict` alone: train once more on the views of all of augment.splits
    fit: Fit
