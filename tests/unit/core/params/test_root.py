"""params.yaml as it is read: YAML 1.2, and mistakes of every group that are named."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.support.checkout import ROOT
from tuwen.core.errors import UserError
from tuwen.core.params import ContestSource, load_params
from tuwen.core.params.root import check_params, require_corpus
from tuwen.core.presets import compose_preset, get_values

CORPUS = (
    "corpus:\n  art: {kind: sample, root: tuwen/sources/sample.txt, art: [noto, twemoji], concepts: null, "
    "picture_px: 144}\n"
)
SHIPPED = ROOT / "params.yaml"
MODEL = """\
model:
  dim: 256
  image: {patch_px: 8, width: 192, layers: 4, patch_dropout: 0.5}
  text: {width: 192, layers: 2, dropout: 0.0}
"""


def changed(tmp_path: Path, old: str, new: str) -> Path:
    """Write params.yaml with fresh weights in place of published and frozen ones, and one more change."""
    text = re.sub(r"(?m)^model: null .*\n", MODEL, SHIPPED.read_text())
    text = re.sub(r"(?m)^  start:\n(    .*\n)+", "  start: {kind: fresh}\n", text)
    text = text.replace("freeze: towers", "freeze: none").replace("muon_lr: null", "muon_lr: 2.0e-3")
    assert old in text
    path = tmp_path / "params.yaml"
    path.write_text(text.replace(old, new, 1))
    return path


def test_a_number_in_exponent_form_is_a_number(tmp_path) -> None:
    path = changed(tmp_path, "dim: ", "dim: 256 # ")
    path.write_text(path.read_text().replace("weight_decay: 0.1", "weight_decay: 1e-1"))
    assert load_params(path).baseline.fit.weight_decay == 0.1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("concepts: null", "concpets: null", r"source\.concpets is not a known key"),
        ("shard: none", "shard: full", r"baseline\.fit: shard: full needs muon_lr: null, distil: null"),
        ("matryoshka: []", "matryoshka: [64, 128]", r"baseline\.fit: matryoshka must hold falling dimensions"),
        ("layer_decay: 1.0", "layer_decay: 1.1", r"fit\.layer_decay: input should be less than or equal to 1"),
        (
            "batch_size: 256\n  dtype: float32",
            "batch_size: 256\n  dtype: float64",
            r"embed\.dtype: input should be 'float32', 'float16', 'int8' or 'binary', got 'float64'",
        ),
        ("max_tokens: 32", "max_tokens: many", r"text\.max_tokens: input should be a valid integer, got 'many'"),
        ("max_tokens: 32", "max_tokens: '32'", r"text\.max_tokens: input should be a valid integer, got '32'"),
        (
            "kind: sample",
            "kind: smaple",
            r"source\.kind: input should be one of 'sample', 'contest'.*, got 'smaple'",
        ),
        ("{kind: sample,", "{knid: sample,", r"corpus\.art\.kind: input should be one of .*, got None"),
        ("art: [noto,", "art: [noot,", r"corpus\.art\.art\.0: input should be .*, got 'noot'"),
        ("{kind: none}", "{kind: synonyms}", r"augment\.paraphrase\.share is missing"),
        ("weights: {}", "weights: {muge: 2.0}", r"baseline\.weights names \['muge'\]; corpus holds \['art'\]"),
        (
            "{kind: fresh}",
            "{kind: fresh, shape: ViT-B-16}",
            r"model must be null: baseline\.start brings the shape",
        ),
        ("{kind: fresh}", "{kind: cn_clip, file: a.pt}", r"baseline\.start\.sha256 is missing"),
        ("{kind: fresh}", "{kind: clip}", r"baseline\.start\.kind: input should be one of 'fresh', .*got 'clip'"),
        ("splits: [train]", "splits: [valid]", r"augment\.splits must hold train"),
        ("refit_all: false", "refit_all: true", r"finetune\.refit_all would train the same model again"),
        ("k: 5\n", "k: 0\n", r"predict\.k: input should be greater than or equal to 1, got 0"),
        ("zoom: [0.7, 1.1]", "zoom: [1.1, 0.7]", r"policy\.zoom: the first number must not be above the second"),
        (
            "crop_scale: [0.7, 1.0]",
            "crop_scale: [0.7, 1.5]",
            r"crop_scale\.1: input should be less than or equal to 1",
        ),
        ("ks: [1, 5, 10]", "ks: [1, 10]", r"evaluate\.ks: must hold 5"),
        (
            "patch_px: 8, width: 192",
            "patch_px: 8, width: 200",
            r"model\.image\.width: input should be a multiple of 64",
        ),
        ("patch_px: 8", "patch_px: 7", r"image\.size_px must be a multiple of model\.image\.patch_px \(7\)"),
        ("valid: 0.1", "valid: 0.0", r"split\.valid: input should be greater than 0, got 0\.0"),
        ("evaluate:", "evalaute:", r"evalaute is not a known key"),
        ("jpeg_quality: 95\n", "\n", r"augment\.jpeg_quality is missing"),
        ("source:", "source: [", r"not valid YAML"),
    ],
)
def test_a_mistake_names_the_place_and_the_value(tmp_path, old: str, new: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_params(changed(tmp_path, old, new))
    assert str(tmp_path / "params.yaml") in str(caught.value)


def test_milvus_keeps_float32_alone(tmp_path) -> None:
    milvus = "store: {kind: milvus, index: FLAT, shards: 1, partitions: 1}"
    path = changed(tmp_path, "store: {kind: exact}", milvus)
    assert load_params(path).embed.dtype == "float32"
    path.write_text(path.read_text().replace("dtype: float32", "dtype: int8"))
    with pytest.raises(UserError, match=r"embed\.dtype must be float32 where index\.store\.kind is milvus"):
        load_params(path)


def test_without_a_corpus_the_data_can_be_read_and_the_baseline_cannot_be_trained(tmp_path) -> None:
    path = changed(tmp_path, CORPUS, "corpus: {}\n")
    bare = load_params(path)
    assert bare.corpus == {}
    with pytest.raises(
        UserError, match=r"params\.yaml: corpus must name a source, .+ `make data` checks"
    ) as caught:
        require_corpus(bare, "params.yaml")
    assert len(str(caught.value)) < 300
    require_corpus(load_params(SHIPPED), "params.yaml")


def test_a_mistake_of_the_whole_file_is_told_without_the_file(tmp_path) -> None:
    with pytest.raises(UserError) as caught:
        load_params(changed(tmp_path, "refit_all: false", "refit_all: true"))
    assert "'source'" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_a_missing_file_says_where_to_run(tmp_path) -> None:
    with pytest.raises(UserError, match="run from the repository's root"):
        load_params(tmp_path / "params.yaml")


def test_the_encoding_of_a_source_is_one_of_text_that_python_knows() -> None:
    assert ContestSource(kind="contest", root="x").encoding is None
    for name in ("utf-8", "gb18030", "big5hkscs", "utf-16", "cp932"):
        assert ContestSource(kind="contest", root="x", encoding=name).encoding == name
    for name in ("mandarin", "hex", "rot13"):
        with pytest.raises(ValidationError, match="must be a text encoding, such as utf-8, gb18030"):
            ContestSource(kind="contest", root="x", encoding=name)


TGD = {"alpha": 0.4, "queue": 16, "half_life": 8}
LISTED = {"web": {"kind": "webdataset", "root": "inputs/shards.csv"}}


@pytest.mark.parametrize(
    ("changes", "objectives", "corpus", "message"),
    [
        ({}, {"gcpr": 1.0}, None, r"objectives\.gcpr must be 0: it trains the towers alone, and these are frozen"),
        ({"towers": "trained", "tgd": TGD, "teacher": {"momentum": 0.9}}, {}, None, r"tgd must be null"),
        (
            {"towers": "trained", "tgd": TGD},
            {"gcpr": 1.0},
            None,
            r"objectives\.fgd or tgd, and teacher, go together",
        ),
        ({"teacher": {"momentum": 0.9}}, {}, None, r"objectives\.fgd or tgd, and teacher, go together"),
        ({"corpus": 0.5}, {}, {}, r"rerank\.corpus must be 0: it shows pairs of corpus, by views of baseline"),
        ({"corpus": 0.5}, {}, LISTED, r"it shows no shards that stay where they are, as \['web'\]"),
    ],
)
def test_what_a_re_ranker_cannot_do_is_named(
    changes: dict[str, Any], objectives: dict[str, float], corpus: Any, message: str
) -> None:
    values = get_values(compose_preset("sample-rerank", ROOT / "presets"))
    values["rerank"] |= {**changes, "objectives": values["rerank"]["objectives"] | objectives}
    if corpus is not None:
        values["corpus"] = corpus
    with pytest.raises(UserError, match=message):
        check_params(values, "params.yaml")


@pytest.mark.parametrize("start", [None, {"kind": "fresh", "shape": "RN50"}])
def test_a_re_ranker_over_towers_without_tokens_is_refused_before_anything_is_trained(start: Any) -> None:
    values = get_values(compose_preset("sample", ROOT / "presets"))
    values["rerank"] = get_values(compose_preset("sample-rerank", ROOT / "presets"))["rerank"]
    if start:
        values["baseline"]["start"] = start
    with pytest.raises(
        UserError, match=r"rerank must be null: .* baseline\.start brings a network of convolutions"
    ):
        check_params(values, "params.yaml")


def test_towers_are_trained_beside_a_teacher_and_its_queue() -> None:
    rerank = check_params(get_values(compose_preset("r2d2", ROOT / "presets")), "params.yaml").rerank
    assert rerank
    assert (rerank.towers, rerank.objectives.gcpr) == ("trained", 1.0)
    assert rerank.teacher
    assert rerank.tgd


def test_towers_are_frozen_over_stored_pairs_alone(tmp_path) -> None:
    values = get_values(compose_preset("sample", ROOT / "presets"))
    values["corpus"] = {"far": {"kind": "webdataset", "root": "inputs/shards.csv"}}
    with pytest.raises(UserError, match=r"baseline\.fit\.freeze must not be towers: .* as \['far'\]"):
        check_params(values, "params.yaml")
