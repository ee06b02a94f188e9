"""Weights that are missing, cut, foreign or dangerous: one message with file, expectation and remedy."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.checkout import ROOT
from tests.support.weights import SIZE_PX, TOKENS, VOCABULARY, chinese_clip_folder, cn_clip_model, sha256
from tuwen.core.errors import UserError
from tuwen.core.params import CnClip, HuggingFace
from tuwen.model import dual_encoder
from tuwen.model.weights import load
from tuwen.model.weights.export import export_model

COMMIT = "660941af70c6ff89ce658a1735404c0f3e536c38"


class Canary:
    """Its pickle writes a file when a reader that runs code loads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "sung")


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return cn_clip_model().state_dict()


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    chinese_clip_folder(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    for path in saved.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def assert_refused(start, message: str, size_px: int = SIZE_PX, max_tokens: int = TOKENS) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load.load_weights(start, size_px, max_tokens)
    assert "\n" not in str(caught.value)


def from_file(file: Path, vocabulary: Path = VOCABULARY) -> CnClip:
    return CnClip(kind="cn_clip", file=str(file), sha256=sha256(file), vocabulary=str(vocabulary))


def from_folder(folder: Path) -> HuggingFace:
    return HuggingFace(kind="hugging_face", model=str(folder), revision=sha256(folder / "model.safetensors"))


def test_code_in_a_pickle_is_not_run(tmp_path, state) -> None:
    canary = tmp_path / "canary"
    torch.save({"state_dict": state, "args": Canary(canary)}, tmp_path / "clip.pt")
    assert_refused(
        from_file(tmp_path / "clip.pt"), r"clip\.pt: holds more than tensors.* nothing of it was run.*safetensors"
    )
    assert not canary.exists()
    torch.load(tmp_path / "clip.pt", weights_only=False)
    assert canary.read_text() == "sung"  # it would have run


def test_missing_and_unexpected_tensors_are_listed_under_the_files_names(tmp_path, state) -> None:
    wrong = {name: tensor for name, tensor in state.items() if "resblocks.1." not in name}
    wrong |= {f"visual.extra.{number}": torch.zeros(1) for number in range(9)}
    wrong |= {"visual.transformer.resblocks.1.ln_1.weight": torch.zeros(128)}
    torch.save(wrong, tmp_path / "clip.pt")
    assert_refused(
        from_file(tmp_path / "clip.pt"),
        r"clip\.pt: .*nothing was loaded: 11 missing \(.*resblocks\.1\.attn\.in_proj_weight.*, and 5 more\); "
        r"9 unexpected \(visual\.extra\.0.*, and 3 more\)",
    )


def test_a_tensor_of_another_shape_is_named_with_both(tmp_path, state) -> None:
    torch.save(state | {"visual.ln_post.bias": torch.zeros(7)}, tmp_path / "clip.pt")
    assert_refused(
        from_file(tmp_path / "clip.pt"), r"1 of another shape \(.*norm_post\.bias: expected \(128,\), got \(7,\)"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"no readable weights"),
        (b"PK\x03\x04 cut", r"no readable weights|holds more than tensors"),
        (b"<html>404</html>", r"no readable weights|holds more than tensors"),
    ],
)
def test_a_broken_file_is_named(tmp_path, content: bytes, message: str) -> None:
    (tmp_path / "clip.pt").write_bytes(content)
    assert_refused(from_file(tmp_path / "clip.pt"), rf"clip\.pt: ({message})")


@pytest.mark.parametrize("content", [b"Entry not found", b"\x93NUMPY\x01\x00v\x00", b"GGUF\x03\x00\x00\x00"])
def test_a_file_that_holds_no_code_is_not_called_code(tmp_path, content: bytes) -> None:
    (tmp_path / "clip.pt").write_bytes(content)
    assert_refused(
        from_file(tmp_path / "clip.pt"), r"clip\.pt: no readable weights: it begins with b.*safetensors"
    )


def test_a_table_of_zeros_is_named(tmp_path, state) -> None:
    name = "bert.embeddings.word_embeddings.weight"
    torch.save(state | {name: torch.zeros_like(state[name])}, tmp_path / "clip.pt")
    assert_refused(from_file(tmp_path / "clip.pt"), r"1 of zeros alone.*\(text_tower.*word_embeddings")


def test_a_cut_file_is_told_once(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-100])
    assert_refused(from_folder(folder), r"^[^ ]*model\.safetensors: no readable weights: the file is cut: [^:]*$")


def test_tensors_of_something_else_are_named(tmp_path) -> None:
    torch.save({"state_dict": {"encoder.weight": torch.zeros(2)}}, tmp_path / "clip.pt")
    assert_refused(from_file(tmp_path / "clip.pt"), r"clip\.pt: expected the tensors of a Chinese-CLIP of cn_clip")
    torch.save([1, 2], tmp_path / "clip.pt")
    assert_refused(from_file(tmp_path / "clip.pt"), r"clip\.pt: expected names with tensors")


def test_another_vocabulary_or_none_is_refused(tmp_path, state) -> None:
    torch.save(state, tmp_path / "clip.pt")
    assert_refused(
        from_file(tmp_path / "clip.pt", tmp_path / "vocab.txt"), r"vocab\.txt: missing; .*PyPI package cn_clip"
    )
    (tmp_path / "vocab.txt").write_text("[PAD]\n猫\n", encoding="utf-8")
    assert_refused(
        from_file(tmp_path / "clip.pt", tmp_path / "vocab.txt"), r"vocab\.txt: 2 tokens, but not those of cn_clip"
    )


def test_a_file_that_is_not_the_pinned_one_is_refused(folder: Path) -> None:
    start = HuggingFace(kind="hugging_face", model=str(folder), revision="0" * 64)
    assert_refused(
        start, rf"model\.safetensors: expected the sha256 0+ .*got {sha256(folder / 'model.safetensors')}"
    )
    gone = HuggingFace(kind="hugging_face", model=str(folder / "gone"), revision="0" * 64)
    assert_refused(gone, r"gone is not there, but the revision is the sha256 of a local file")
    (folder / "model.safetensors").unlink()
    assert_refused(start, r"expected one of model\.safetensors, pytorch_model\.bin in it")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("config.json", {"model_type": "clip"}, r"model_type: expected 'chinese_clip', got 'clip'"),
        ("config.json", None, r"config\.json: missing"),
        ("tokenizer_config.json", {"do_lower_case": False}, r"do_lower_case: expected true, got false"),
        ("tokenizer.json", None, r"vocab\.txt: missing; expected the tokens of the model"),
        ("processor_config.json", None, r"preprocessor_config\.json: missing"),
    ],
)
def test_a_folder_that_is_not_whole_is_named(folder: Path, name: str, change, message: str) -> None:
    if change is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | change))
    assert_refused(from_folder(folder), message)


def test_params_that_the_weights_cannot_take_are_named(folder: Path) -> None:
    assert_refused(
        from_folder(folder), rf"image\.size_px: .*trained at {SIZE_PX} px, expected that, got 224", size_px=224
    )
    assert_refused(
        from_folder(folder), r"text\.max_tokens: .*64 positions, expected that at most, got 65", max_tokens=65
    )


def test_a_hub_that_cannot_be_reached_names_the_mirror_and_the_local_path(tmp_path) -> None:
    program = f"""
from tuwen.core.errors import UserError
from tuwen.data.formats.pinned import find_pinned
try:
    find_pinned("params.yaml: baseline.start.model", "OFA-Sys/some-model", "{COMMIT}", ["model.safetensors"], [])
except UserError as error:
    print(error)
"""
    # without a network huggingface_hub tries again for 23 s; set to be offline it gives up at once
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=offline, capture_output=True, text=True, timeout=400
    )
    message = (
        rf"baseline\.start\.model: OFA-Sys/some-model at {COMMIT} cannot be fetched: .*HF_ENDPOINT names a mirror"
    )
    assert re.search(message, done.stdout), done.stdout + done.stderr
    assert "give a local path" in done.stdout
    assert done.stdout.count("\n") == 1


def test_a_model_without_a_place_in_a_form_is_not_exported(tmp_path) -> None:
    config = {
        "dim": 8,
        "image": {"size_px": 16, "patch_px": 8, "width": 64, "layers": 1, "patch_dropout": 0.0},
        "text": {"width": 64, "layers": 1, "dropout": 0.0, "max_tokens": 8},
        "vocabulary": 10,
    }
    dual_encoder.save_model(dual_encoder.DualEncoder(config), tmp_path / "ours", ["[PAD]"])
    with pytest.raises(UserError, match="picture tower is no vit of CLIP's form"):
        export_model("hugging_face", tmp_path / "ours", tmp_path / "out")
    own = chinese_clip_folder(tmp_path / "theirs")
    assert own.config.vision_config.layer_norm_eps == 1e-4
    encoder, tokens = load.load_weights(from_folder(tmp_path / "theirs"), SIZE_PX, TOKENS)
    dual_encoder.save_model(encoder, tmp_path / "eps", tokens)
    with pytest.raises(UserError, match=r"as cn_clip: heads is 4, and there it is 1; mlp is 160.*eps is 0\.0001"):
        export_model("cn_clip", tmp_path / "eps", tmp_path / "out.pt")
    with pytest.raises(UserError, match="expected hugging_face, cn_clip, open_clip or torch"):
        export_model("onnx", tmp_path / "ours", tmp_path / "out")
    with pytest.raises(UserError, match="is there already"):
        export_model("cn_clip", tmp_path / "eps", tmp_path / "ours")
