"""params.yaml -> strict models, one per group; an unknown key or a wrong type is an error that names its place.

Only what decides the outs stands here. How to run (workers, device, tracking address) is a TUWEN_* variable.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from tuwen.errors import UserError

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


def _ordered(bounds: list[float]) -> list[float]:
    if bounds[0] > bounds[1]:
        raise ValueError("the first number must not be above the second")
    return bounds


Positive = Annotated[float, Field(gt=0)]
Pair = Field(min_length=2, max_length=2)
Range = Annotated[list[Positive], Pair, AfterValidator(_ordered)]
ShareRange = Annotated[list[Annotated[Positive, Field(le=1)]], Pair, AfterValidator(_ordered)]
SplitShare = Annotated[float, Field(gt=0, lt=1)]
Width = Annotated[int, Field(ge=64, multiple_of=64)]  # the attention heads are 64 wide


def _with_headline(ks: list[int]) -> list[int]:
    if 5 not in ks or len(set(ks)) != len(ks):
        raise ValueError("must hold 5, the headline, and no number twice")
    return ks


class Strict(BaseModel):
    """No unknown keys, no coercion of strings to numbers, no change after loading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Source(Strict):
    """Where the pairs come from."""

    kind: Literal["sample"]
    root: str  # file or folder that `ingest` depends on, relative to the repository
    concepts: Count | None = None  # sample: how many concepts to take, null for all
    picture_px: Count = 144  # sample: side at which the SVG drawings are rendered


class Validate(Strict):
    """Thresholds of the data-quality gates."""

    min_side_px: Count  # smaller pictures are quarantined
    max_pixels: Count  # larger pictures are quarantined before they are decoded
    max_chars: Count  # longer captions are quarantined
    max_pictures_per_caption: Count  # a caption on more pictures is a warning
    max_quarantined_share: Share  # critical: more bad rows than this stops the stage


class Split(Strict):
    """Shares of the labelled groups; the rest is train."""

    seed: int
    valid: SplitShare
    test: SplitShare


class Image(Strict):
    """The picture rule's one number."""

    size_px: Count  # side of the square that the model sees


class Text(Strict):
    """How captions become tokens."""

    max_tokens: Annotated[int, Field(ge=3)]  # counts [CLS] and [SEP]


class Policy(Strict):
    """How a view differs from its original."""

    crop_scale: ShareRange  # share of the area that a crop keeps
    crop_ratio: Range  # width / height of a crop
    flip: bool  # mirror half of the views, never where the caption says left or right
    rotate_degrees: Annotated[float, Field(ge=0, le=180)]  # largest turn either way
    zoom: Range  # scale of the picture on its white ground before the crop
    colour: Share  # strength of the change in brightness, contrast and saturation
    grey: Share  # share of views without colour
    outline: Share  # share of views whose edges are drawn over in black, as in a comic
    text: list[Literal["shuffle_list", "drop_from_list"]]  # on captions that are lists joined by 、


class Augment(Strict):
    """Stored views for fine-tuning."""

    seed: int
    views: Count  # per pair; view 0 is the picture rule alone
    jpeg_quality: Annotated[int, Field(ge=1, le=100)]
    policy: Policy


class ImageTower(Strict):
    """The vision transformer."""

    patch_px: Count  # a divisor of image.size_px
    width: Width
    layers: Count
    patch_dropout: Annotated[float, Field(ge=0, lt=1)]  # share of patches left out while training


class TextTower(Strict):
    """The BERT-like text encoder."""

    width: Width
    layers: Count
    dropout: Annotated[float, Field(ge=0, lt=1)]


class Model(Strict):
    """The dual encoder."""

    dim: Count  # dimensions of the common space
    image: ImageTower
    text: TextTower


class Fit(Strict):
    """One training: the same loop pre-trains and fine-tunes."""

    epochs: Count
    batch_size: Count  # pairs per step
    lr: Annotated[float, Field(gt=0)]  # peak learning rate of AdamW
    muon_lr: Annotated[float, Field(gt=0)] | None  # of Muon, for the towers' hidden matrices; null: AdamW for all
    weight_decay: Annotated[float, Field(ge=0)]  # of matrices; never of norms, biases, embeddings
    warmup_steps: Annotated[int, Field(ge=0)]
    max_grad_norm: Annotated[float, Field(gt=0)]
    precision: Literal["fp32", "bf16"]  # autocast; the weights stay fp32
    freeze_text: bool  # LiT: keep the text tower as it is


class Baseline(Strict):
    """Pre-training on the corpus."""

    seed: int
    policy: Policy
    fit: Fit


class Finetune(Strict):
    """Fine-tuning on the augmented views."""

    seed: int
    fit: Fit


class Embed(Strict):
    """Pairs -> embeddings."""

    batch_size: Count


class Evaluate(Strict):
    """Recall and its intervals."""

    ks: Annotated[list[Count], Field(min_length=1), AfterValidator(_with_headline)]
    bootstrap_samples: Count
    seed: int


class Predict(Strict):
    """The result files."""

    k: Literal[5]  # ranks per query in the contest's form


class Report(Strict):
    """The report."""

    examples: Count  # queries shown per kind and direction


class Params(Strict):
    """The whole of params.yaml."""

    source: Source
    validate_: Validate = Field(alias="validate")
    split: Split
    image: Image
    text: Text
    augment: Augment
    model: Model
    baseline: Baseline
    finetune: Finetune
    embed: Embed
    evaluate: Evaluate
    predict: Predict
    report: Report

    @model_validator(mode="after")
    def _patches_fill_the_square(self) -> "Params":
        if self.image.size_px % self.model.image.patch_px:
            raise ValueError(
                f"image.size_px must be a multiple of model.image.patch_px ({self.model.image.patch_px})"
            )
        return self


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check `path`. Raises UserError that names the key, the value and what it must be."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        values: Any = YAML(typ="safe", pure=True).load(path)  # YAML 1.2, as DVC reads it: 1e-5 is a number
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run from the repository's root") from None
    except YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise UserError("\n".join(_explain(path, e) for e in error.errors())) from None


def _explain(path: Path, error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"]) or "the file"
    if error["type"] == "extra_forbidden":
        return f"{path}: {place} is not a known key; remove it or correct its spelling"
    if error["type"] == "value_error":
        return f"{path}: {place}: {error['msg'].removeprefix('Value error, ')}, got {error['input']!r}"[:500]
    if error["type"] == "missing":
        return f"{path}: {place} is missing; add it (presets/ show whole files)"
    return f"{path}: {place}: {error['msg'].lower()}, got {error['input']!r}"
