"""Foreign files as people have them: every form of weights with every fault, and one message for each."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.weights import (
    DIM,
    SIZE_PX,
    TOKENS,
    VOCABULARY,
    chinese_clip_folder,
    cn_clip_model,
    open_clip,
    sha256,
    stir,
)
from tuwen.core.errors import UserError
from tuwen.core.params import CnClip, Folder, HuggingFace, OpenClip
from tuwen.model import dual_encoder
from tuwen.model.weights import load

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 753421312\n"
PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n"
TOWER = "small-faults"
SHAPE = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": SIZE_PX, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 64, "heads": 1, "layers": 1},
}
# Form of weights -> the file of weights whose faults are tried; open_clip has two
FORMS = {
    "hugging_face": "model.safetensors",
    "cn_clip": "clip.pt",
    "open_clip": "open_clip_model.safetensors",
    "open_clip text": "bert/model.safetensors",
    "folder": "model.safetensors",
}
VOCABULARIES = {
    "hugging_face": "vocab.txt",
    "cn_clip": "vocab.txt",
    "open_clip": "bert/vocab.txt",
    "folder": "vocab.txt",
}
CONFIGS = {"hugging_face": "config.json", "open_clip": "bert/config.json", "folder": "config.json"}


def save_open_clip(folder: Path) -> None:
    from transformers import BertConfig, BertModel

    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / f"{TOWER}.json").write_text(json.dumps(SHAPE))
    open_clip.add_model_config(folder / "configs")
    state = stir(open_clip.create_model(TOWER)).state_dict()
    save_file({name: tensor.contiguous().clone() for name, tensor in state.items()}, folder / FORMS["open_clip"])
    shape = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 96}
    stir(BertModel(BertConfig(vocab_size=21128, max_position_embeddings=64, **shape))).save_pretrained(
        folder / "bert"
    )
    shutil.copy(VOCABULARY, folder / "bert/vocab.txt")


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("saved")
    chinese_clip_folder(root / "hugging_face")
    (root / "hugging_face/tokenizer.json").unlink()
    shutil.copy(VOCABULARY, root / "hugging_face/vocab.txt")
    (root / "cn_clip").mkdir()
    torch.save({"state_dict": cn_clip_model().state_dict()}, root / "cn_clip/clip.pt")
    shutil.copy(VOCABULARY, root / "cn_clip/vocab.txt")
    save_open_clip(root / "open_clip")
    shutil.copytree(root / "open_clip", root / "open_clip text")
    encoder, tokens = load.load_weights(make_start("hugging_face", root / "hugging_face"), SIZE_PX, TOKENS)
    dual_encoder.save_model(encoder, root / "folder", tokens)
    return root


def make_start(form: str, folder: Path) -> Any:
    if form == "hugging_face":
        return HuggingFace(kind=form, model=str(folder), revision=sha256(folder / FORMS[form]))
    if form == "cn_clip":
        file, vocabulary = folder / FORMS[form], str(folder / "vocab.txt")
        return CnClip(kind=form, file=str(file), sha256=sha256(file), vocabulary=vocabulary)
    if form == "folder":
        return Folder(kind=form, folder=str(folder), sha256=sha256(folder / FORMS[form]))
    image, text = folder / FORMS["open_clip"], folder / FORMS["open_clip text"]
    pins = {"image_revision": sha256(image), "text_revision": sha256(text)}
    return OpenClip(
        kind="open_clip", image=TOWER, image_weights=str(image), text=str(text.parent), dim=DIM, **pins
    )


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Callable[[str], Path]:
    return lambda form: Path(shutil.copytree(saved / form, tmp_path / form))


def load_form(form: str, folder: Path) -> tuple[dual_encoder.DualEncoder, list[str]]:
    torch.manual_seed(0)  # of open_clip's fresh projections
    return load.load_weights(make_start(form, folder), SIZE_PX, TOKENS)


def assert_refused(form: str, folder: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_form(form, folder)
    assert "\n" not in str(caught.value)


def change_tensors(path: Path, change: Callable[[str, torch.Tensor], tuple[str, torch.Tensor]]) -> None:
    state = torch.load(path)["state_dict"] if path.suffix == ".pt" else load_file(path)
    changed = dict(change(name, tensor) for name, tensor in state.items())
    if path.suffix == ".pt":
        torch.save({"state_dict": changed, "optimizer": {"state": {}}, "epoch": 3}, path)
    else:
        save_file({name: tensor.contiguous() for name, tensor in changed.items()}, path)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_no_file_of_weights_is_named(form: str, copy) -> None:
    folder = copy(form)
    path = folder / FORMS[form]
    whole = path.read_bytes()
    name = path.name.replace(".", r"\.")
    faults = [
        (LFS, "it is a Git LFS pointer to a file of 753,421,312 bytes; run `git lfs pull`"),
        (PAGE, "it is a web page; fetch the raw file"),
        (b'{"error":"Repository not found"}', "it is the error message of a server; fetch"),
        (b"", "the file is empty"),
        (whole[: len(whole) * 2 // 3], "the file is cut: .*fetch it again"),
    ]
    for content, message in faults:
        path.write_bytes(content)
        assert_refused(form, folder, rf"{name}: no readable weights: {message}")


@pytest.mark.parametrize("form", FORMS)
def test_a_pointer_is_named_though_its_hash_is_not_the_pinned_one(form: str, copy) -> None:
    folder = copy(form)
    start = make_start(form, folder)
    (folder / FORMS[form]).write_bytes(LFS)
    with pytest.raises(UserError, match="Git LFS pointer"):
        load.load_weights(start, SIZE_PX, TOKENS)


@pytest.mark.parametrize("form", FORMS)
def test_the_prefixes_of_trainers_are_taken_off(form: str, copy) -> None:
    folder = copy(form)
    before, _ = load_form(form, folder)
    for prefix in ("_orig_mod.", "module.", "module._orig_mod.", "model."):
        shutil.rmtree(folder)
        change_tensors(copy(form) / FORMS[form], lambda name, tensor, prefix=prefix: (prefix + name, tensor))
        after, _ = load_form(form, folder)
        assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_an_adapter_is_told_to_be_merged_first(form: str, copy) -> None:
    folder = copy(form)
    change_tensors(folder / FORMS[form], lambda name, tensor: (f"base_model.model.{name}", tensor))
    assert_refused(form, folder, r"tensors of an adapter \(LoRA, as base_model\.model\..*merge it first")


@pytest.mark.parametrize("form", FORMS)
def test_numbers_that_cannot_be_weights_are_named(form: str, copy) -> None:
    kept = ("position_embedding", "positional_embedding")  # in each of the files
    folder = copy(form)
    spoil = {
        "1 with NaN or infinite numbers": lambda tensor: torch.full_like(tensor, float("nan")),
        "1 of whole numbers": lambda tensor: (tensor * 100).to(torch.int8),
    }
    for message, change in spoil.items():
        shutil.rmtree(folder)
        path, done = copy(form) / FORMS[form], []

        def spoil_first(name: str, tensor: torch.Tensor, change=change, done=done) -> tuple[str, torch.Tensor]:
            if (
                any(part in name for part in kept)
                and tensor.ndim > 1
                and not done
                and name != "positional_embedding"
            ):
                done.append(name)
                tensor = change(tensor)
            return name, tensor

        change_tensors(path, spoil_first)
        assert done
        assert_refused(form, folder, rf"nothing was loaded: {message}[^;]*position_embedding.*; take the weights")


@pytest.mark.parametrize("form", VOCABULARIES)
def test_a_vocabulary_of_another_encoding_is_named_and_line_ends_do_not_matter(form: str, copy) -> None:
    folder = copy(form)
    path, tokens = folder / VOCABULARIES[form], VOCABULARY.read_text("utf-8").removesuffix("\n").split("\n")
    text = "\n".join(tokens)
    for encoded in (b"\xef\xbb\xbf" + text.encode(), text.replace("\n", "\r\n").encode(), text.encode() + b"\n\n"):
        path.write_bytes(encoded)
        assert load_form(form, folder)[1] == tokens
    path.write_bytes(text.encode("gb18030"))
    assert_refused(
        form, folder, r"vocab\.txt: cannot be read as a vocabulary: line \d+ is not UTF-8.*GB18030; save it"
    )
    path.write_bytes(text.encode("utf-16"))
    assert_refused(form, folder, r"line 1 is not UTF-8 \(byte 0xff\), but UTF-16")
    path.write_bytes(LFS)
    assert_refused(form, folder, r"vocab\.txt: no vocabulary: it is a Git LFS pointer")


@pytest.mark.parametrize("form", VOCABULARIES)
def test_a_vocabulary_that_is_not_the_models_is_named(form: str, copy) -> None:
    folder = copy(form)
    tokens = VOCABULARY.read_text("utf-8").removesuffix("\n").split("\n")
    shuffled = tokens[:200] + random.Random(0).sample(tokens[200:], len(tokens) - 200)
    faults = [
        (tokens[:3000], "3000 tokens, .*expected 21128, the rows"),
        (["[unused0]", *tokens[:-1]], "is line 2, expected the first"),
        ([*tokens[:500], tokens[400], *tokens[500:-1]], "lines 401 and 501 are both"),
        ([token for token in tokens if token != "[CLS]"], r"without \[CLS\]"),
        (shuffled, "the tokens of the Chinese BERT in another order"),
        ([f"{n}.{t}".encode().decode("latin-1") if n > 200 else t for n, t in enumerate(tokens)], "is Chinese"),
    ]
    for wrong, message in faults:
        (folder / VOCABULARIES[form]).write_text("\n".join(wrong) + "\n", encoding="utf-8")
        assert_refused(form, folder, rf"vocab\.txt: .*{message}")


@pytest.mark.parametrize("form", CONFIGS)
def test_a_config_that_is_none_is_named(form: str, copy) -> None:
    folder = copy(form)
    path = folder / CONFIGS[form]
    whole = path.read_bytes()
    faults = [
        (LFS, "no valid JSON: it is a Git LFS pointer"),
        (PAGE, "no valid JSON: it is a web page"),
        (whole[:-30], "not valid JSON"),
        (b"[]", "expected a JSON object" if form != "folder" else "no layers can be built by it"),
        (whole.replace(b": 64", b": 65"), r"config\.json: no (layers can be built by it|ChineseCLIPConfig)"),
    ]
    for content, message in faults:
        path.write_bytes(content)
        assert_refused(form, folder, message)


def test_tokens_that_two_files_beside_each_other_number_differently_are_refused(tmp_path) -> None:
    chinese_clip_folder(tmp_path)
    tokens = VOCABULARY.read_text("utf-8").removesuffix("\n").split("\n")
    (tmp_path / "vocab.txt").write_text("\n".join(tokens), encoding="utf-8")
    load_form("hugging_face", tmp_path)
    tokens[300], tokens[301] = tokens[301], tokens[300]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens), encoding="utf-8")
    assert_refused(
        "hugging_face", tmp_path, r"vocab\.txt: 21128 tokens that differ from the 21128 of tokenizer\.json"
    )


def test_pixels_that_cannot_be_prepared_are_refused(copy) -> None:
    folder = copy("hugging_face")
    path = next(
        folder / name
        for name in ("preprocessor_config.json", "processor_config.json")
        if (folder / name).is_file()
    )
    for levels in ([0.5, 0.5], [0.5, 0.5, 0.0], [127.5] * 3, "half"):
        body = json.loads(path.read_text())
        (body.get("image_processor") or body)["image_std"] = levels
        path.write_text(json.dumps(body))
        assert_refused("hugging_face", folder, r"std of the pictures: expected three numbers up to 1 above 0, got")


def test_weights_in_parts_or_beside_an_adapter_are_named(copy) -> None:
    folder = copy("hugging_face")
    start = make_start("hugging_face", folder)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    with pytest.raises(UserError, match=r"the weights are in 1 parts \(model-00001-of-00002\.safetensors"):
        load.load_weights(start, SIZE_PX, TOKENS)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds an adapter \(LoRA\) and not the weights: merge it first"):
        load.load_weights(start, SIZE_PX, TOKENS)
