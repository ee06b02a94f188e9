"""params.yaml -> strict models, one per group; an unknown key or a wrong type is an error that names its place.

Only what decides the outs stands here. How to run (workers, device, tracking address) is a TUWEN_* variable.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from tuwen.core.errors import UserError
from tuwen.core.params.data import Augment, Corpus, Count, Pairs, Source, Split, Strict, Validate
from tuwen.core.params.model import Model
from tuwen.core.params.training import Baseline, Finetune


def _with_headline(ks: list[int]) -> list[int]:
    if 5 not in ks or len(set(ks)) != len(ks):
        raise ValueError("must hold 5, the headline, and no number twice")
    return ks


class Image(Strict):
    """The picture rule's one number."""

    size_px: Count  # side of the square that the model sees


class Text(Strict):
    """How captions become tokens."""

    max_tokens: Annotated[int, Field(ge=3)]  # counts [CLS] and [SEP]


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

    k: Count  # ranks per query; the contest's files have five, another number is written beside them
    correction: Literal["none", "qbnorm"]  # of scores: QB-Norm by the bank of train, at valid's temperature


class Report(Strict):
    """The report."""

    examples: Count  # queries shown per kind and direction


class Gate(Strict):
    """What a change may cost: no stage reads it, `python -m flows.reevaluate` does."""

    max_drop_points: Annotated[float, Field(ge=0)]  # of R@5 on test, in either direction


class Params(Strict):
    """The whole of params.yaml."""

    source: Source
    corpus: Corpus
    validate_: Validate = Field(alias="validate")
    split: Split
    pairs: Pairs
    image: Image
    text: Text
    augment: Augment
    model: Model | None  # null where baseline.start brings a shape
    baseline: Baseline
    finetune: Finetune
    embed: Embed
    evaluate: Evaluate
    predict: Predict
    report: Report
    gate: Gate

    @model_validator(mode="after")
    def _one_place_says_the_shape(self) -> "Params":
        start = self.baseline.start
        named = start.kind != "fresh" or start.shape is not None
        if named and self.model:
            raise ValueError("model must be null: baseline.start brings the shape")
        if not named and not self.model:
            raise ValueError("model must say the shape of the fresh weights, or baseline.start.shape name one")
        if self.model and self.image.size_px % self.model.image.patch_px:
            raise ValueError(
                f"image.size_px must be a multiple of model.image.patch_px ({self.model.image.patch_px})"
            )
        return self

    @model_validator(mode="after")
    def _the_baseline_has_no_baseline(self) -> "Params":
        if self.baseline.fit and self.baseline.fit.select.wise_ft:
            raise ValueError("baseline.fit.select.wise_ft must be []: there are no earlier weights to mix with")
        return self

    @model_validator(mode="after")
    def _what_is_pre_trained_has_a_corpus(self) -> "Params":
        if (self.baseline.fit is None) != (self.baseline.policy is None):
            raise ValueError("baseline.fit and baseline.policy go together: both, or null for both")
        if self.baseline.fit is None and self.baseline.start.kind == "fresh":
            raise ValueError("baseline.fit must not be null: fresh weights that are not trained know nothing")
        if self.baseline.fit and not self.corpus:
            raise ValueError("corpus must name a source: the baseline is pre-trained on nothing else")
        if unknown := sorted(set(self.baseline.weights) - set(self.corpus)):
            raise ValueError(f"baseline.weights names {unknown}; corpus holds {sorted(self.corpus)}")
        return self

    @model_validator(mode="after")
    def _selection_has_its_views(self) -> "Params":
        if "train" not in self.augment.splits:
            raise ValueError("augment.splits must hold train: selection trains on its views")
        if self.finetune.refit_all and len(self.augment.splits) == 1:
            raise ValueError(
                "finetune.refit_all would train the same model again: augment.splits holds train alone"
            )
        return self


KINDS_STAND_BELOW = (("source",), ("corpus", "*"), ("augment", "paraphrase"), ("baseline", "start"))


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check `path`, a whole file. Raises UserError that names the key, the value and what it must be."""
    return check_params(read_settings(path), str(path))


def read_settings(path: Path) -> Any:
    """Return what the YAML file `path` holds. Raises UserError where it is missing or not valid YAML."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe", pure=True).load(path)  # YAML 1.2, as DVC reads it: 1e-5 is a number
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run from the repository's root") from None
    except YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None


def check_params(values: Any, file: str) -> Params:
    """Return `values` as strict models. Raises UserError with a line for each mistake, each after `file`."""
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise UserError("\n".join(_explain(file, e) for e in error.errors())) from None


def _explain(path: str, error: Any) -> str:
    loc = list(error["loc"])
    for above in KINDS_STAND_BELOW:  # pydantic names the chosen kind as a step of the place
        if len(loc) > len(above) and all(part in ("*", loc[step]) for step, part in enumerate(above)):
            del loc[len(above)]
    place = ".".join(str(part) for part in loc) or "the file"
    if error["type"].startswith("union_tag"):
        found = error["input"].get("kind") if isinstance(error["input"], dict) else error["input"]
        kinds = error["ctx"].get("expected_tags", "a kind (docs/data.md)")
        return f"{path}: {place}.kind: input should be one of {kinds}, got {found!r}"
    if error["type"] == "extra_forbidden":
        return f"{path}: {place} is not a known key; remove it or correct its spelling"
    if error["type"] == "value_error":
        return f"{path}: {place}: {error['msg'].removeprefix('Value error, ')}, got {error['input']!r}"[:500]
    if error["type"] == "missing":
        return f"{path}: {place} is missing; add it (presets/sample.yaml is a whole file)"
    return f"{path}: {place}: {error['msg'].lower()}, got {error['input']!r}"
