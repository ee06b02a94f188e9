"""params.yaml as strict models, one per group; an unknown key or a wrong type is an error that names its place.

Params holds only what decides the outs. How to run (workers, device, tracking address) is a TUWEN_* variable.
params.yaml is whole: but for some keys of groups with a `kind` and of `distil`, there are no defaults in code.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, model_validator

from tuwen.core.errors import UserError
from tuwen.core.params.data import Augment, Corpus, Count, Pairs, Source, Split, Strict, Validate
from tuwen.core.params.index import Embed, Index
from tuwen.core.params.model import Model
from tuwen.core.params.rerank import Rerank
from tuwen.core.params.training import Baseline, Finetune


def _check_ks(ks: list[int]) -> list[int]:
    if 5 not in ks or len(set(ks)) != len(ks):
        raise ValueError("must hold 5, the headline, and no number twice")
    return ks


class Image(Strict):
    """How a picture becomes the model's input."""

    size_px: Count  # side of the square that the model sees


class Text(Strict):
    """How a caption becomes the model's input."""

    max_tokens: Annotated[int, Field(ge=3)]  # counts [CLS] and [SEP]
    simplify: bool  # traditional characters are read as simplified ones, in training and in asking alike


class Evaluate(Strict):
    """How the models are measured: recall and its intervals."""

    # the k of hit@k and recall@k
    ks: Annotated[list[Count], Field(min_length=1), AfterValidator(_check_ks)]
    bootstrap_samples: Count  # resamples behind each interval
    seed: int


class Predict(Strict):
    """How the result files are filled."""

    k: Count  # ranks per query; the contest's files have five, another number is written beside them
    correction: Literal["none", "qbnorm"]  # of scores: QB-Norm by the bank of train, at valid's temperature
    rerank: Literal[False, True, "auto"]  # the first answers; auto: where valid's gain is sure, in each direction

    @model_validator(mode="after")
    def _check_order(self) -> "Predict":
        if self.rerank and self.correction != "none":
            raise ValueError(
                "correction must be none where rerank is not false: a re-ranker reads the first by cosine"
            )
        return self


class Report(Strict):
    """What the report shows."""

    examples: Count  # queries shown per kind and direction


class Gate(Strict):
    """What a pull request may cost. No stage reads it; `python -m flows.reevaluate` does."""

    max_drop_points: Annotated[float, Field(ge=0)]  # of R@5 on test, in either direction


class Params(Strict):
    """All settings: the whole of params.yaml."""

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
    rerank: Rerank | None  # null: no re-ranker
    embed: Embed
    evaluate: Evaluate
    predict: Predict
    report: Report
    index: Index
    gate: Gate

    @model_validator(mode="after")
    def _check_shape(self) -> "Params":
        start = self.baseline.start
        start_has_shape = start.kind != "fresh" or start.shape is not None
        if start_has_shape and self.model:
            raise ValueError("model must be null: baseline.start brings the shape")
        if not start_has_shape and not self.model:
            raise ValueError("model must say the shape of the fresh weights, or baseline.start.shape name one")
        if self.model and self.image.size_px % self.model.image.patch_px:
            raise ValueError(
                f"image.size_px must be a multiple of model.image.patch_px ({self.model.image.patch_px})"
            )
        brought = start.shape if start.kind == "fresh" else start.kind
        if self.rerank and brought in ("RN50", "wheels", "transformers", "open_clip_hub", "embeddings"):
            tower = "a network of convolutions" if brought in ("RN50", "wheels") else "a library's"
            raise ValueError(
                "rerank must be null: a re-ranker reads tokens of towers of the project's own, and baseline.start "
                f"brings {tower}"
            )
        return self

    @model_validator(mode="after")
    def _check_store(self) -> "Params":
        if self.embed.dtype != "float32" and self.index.store.kind == "milvus":
            raise ValueError(
                "embed.dtype must be float32 where index.store.kind is milvus, which has forms of its own"
            )
        return self

    @model_validator(mode="after")
    def _check_wise_ft(self) -> "Params":
        if self.baseline.fit and self.baseline.fit.select.wise_ft:
            raise ValueError("baseline.fit.select.wise_ft must be []: there are no earlier weights to mix with")
        return self

    @model_validator(mode="after")
    def _check_pre_training(self) -> "Params":
        if (self.baseline.fit is None) != (self.baseline.policy is None):
            raise ValueError("baseline.fit and baseline.policy go together: both, or null for both")
        if self.baseline.fit is not None and self.baseline.start.kind == "embeddings":
            raise ValueError("baseline.fit must be null: vectors of another program are taken as they are")
        if self.baseline.fit is None and self.baseline.start.kind == "fresh":
            raise ValueError("baseline.fit must not be null: fresh weights that are not trained know nothing")
        if unknown := sorted(set(self.baseline.weights) - set(self.corpus)):
            raise ValueError(f"baseline.weights names {unknown}; corpus holds {sorted(self.corpus)}")
        return self

    @model_validator(mode="after")
    def _check_frozen_towers(self) -> "Params":
        if self.baseline.start.kind == "embeddings" and self.finetune.fit.freeze != "none":
            raise ValueError(
                f"finetune.fit.freeze must be none, got {self.finetune.fit.freeze}: vectors of another program "
                "have no towers below the heads that are trained"
            )
        if self.baseline.fit and self.baseline.fit.freeze == "towers" and self._list_streamed():
            raise ValueError(
                "baseline.fit.freeze must not be towers: what they make of shards that stay where they are, as "
                f"{self._list_streamed()}, cannot be kept"
            )
        return self

    def _list_streamed(self) -> list[str]:
        """Return the sources of the corpus whose shards stay where they are."""
        return [name for name, one in self.corpus.items() if one.kind == "webdataset" and one.is_streamed]

    @model_validator(mode="after")
    def _check_rerank_corpus(self) -> "Params":
        if not self.rerank or not self.rerank.corpus:
            return self
        if self.baseline.policy is None or not self.corpus:
            raise ValueError("rerank.corpus must be 0: it shows pairs of corpus, by views of baseline.policy")
        if listed := self._list_streamed():
            raise ValueError(f"rerank.corpus must be 0: it shows no shards that stay where they are, as {listed}")
        return self

    @model_validator(mode="after")
    def _check_splits(self) -> "Params":
        if "train" not in self.augment.splits:
            raise ValueError("augment.splits must hold train: selection trains on its views")
        if self.finetune.refit_all and len(self.augment.splits) == 1:
            raise ValueError(
                "finetune.refit_all would train the same model again: augment.splits holds train alone"
            )
        return self


def require_corpus(params: Params, file: str) -> None:
    """Raise UserError where the baseline has nothing to train on; data alone can be checked all the same."""
    if params.baseline.fit and not params.corpus:
        raise UserError(
            f"{file}: corpus must name a source, as the baseline is pre-trained on nothing else; or let "
            "baseline.start name published weights, with baseline.fit and baseline.policy null; "
            "`make data` checks the data without either"
        )


# Groups that differ by `kind`: pydantic names the chosen kind as one more step of a place below them.
GROUPS_WITH_KIND = (("source",), ("corpus", "*"), ("augment", "paraphrase"), ("baseline", "start"))


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


def check_source(values: Any) -> Source:
    """Return the settings of one source as a strict model. Raises UserError with a line for each mistake."""
    try:
        return TypeAdapter[Source](Source).validate_python(values)
    except ValidationError as error:
        raise UserError("\n".join(_explain("source", e) for e in error.errors())) from None


def _explain(file: str, error: Any) -> str:
    """Return one of pydantic's errors as a line that names the place, the value and what is expected."""
    loc = list(error["loc"])
    for group in GROUPS_WITH_KIND:
        if len(loc) > len(group) and all(part in ("*", loc[step]) for step, part in enumerate(group)):
            del loc[len(group)]
    place = ".".join(str(part) for part in loc) or "the file"
    if error["type"].startswith("union_tag"):
        kind = error["input"].get("kind") if isinstance(error["input"], dict) else error["input"]
        kinds = error["ctx"].get("expected_tags", "a kind (docs/data.md)")
        return f"{file}: {place}.kind: input should be one of {kinds}, got {kind!r}"
    if error["type"] == "extra_forbidden":
        return f"{file}: {place} is not a known key; remove it or correct its spelling"
    if error["type"] == "value_error":  # of the whole file the message names what is wrong
        told = f"{file}: {place}: {error['msg'].removeprefix('Value error, ')}"
        return f"{told}, got {error['input']!r}" if loc else told
    if error["type"] == "missing":
        return f"{file}: {place} is missing; add it (presets/sample.yaml is a whole file)"
    return f"{file}: {place}: {error['msg'].lower()}, got {error['input']!r}"
