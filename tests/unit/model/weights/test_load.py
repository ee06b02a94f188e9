"""Parity with the packages that publish Chinese-CLIP, from images and sentences on, and round trips."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.checkout import ROOT
from tests.support.weights import (
    CAPTIONS,
    RESNET,
    SIZE_PX,
    TOKENS,
    VIT,
    VOCABULARY,
    chinese_clip_folder,
    cn_clip,
    cn_clip_model,
    draw_pictures,
    sha256,
)
from tuwen.core.errors import UserError
from tuwen.core.params import CnClip, Folder, HuggingFace, Params
from tuwen.core.presets import check_preset, compose_preset
from tuwen.data.formats.images import resize_to_square
from tuwen.data.formats.text import build_vocabulary, load_tokenizer, tokenize
from tuwen.model import dual_encoder
from tuwen.model.weights import load
from tuwen.model.weights.export import export_model
from tuwen.retrieval.encode import embed_captions, embed_images

NEAR = {"atol": 1e-5, "rtol": 0}
VISIONS = {"vit": VIT, "resnet": RESNET}


def embed_all(encoder: dual_encoder.DualEncoder) -> tuple[torch.Tensor, torch.Tensor]:
    """Return our vectors of all images and captions, made as the stages make them."""
    squares = [resize_to_square(picture, SIZE_PX) for picture in draw_pictures()]
    images = embed_images(encoder, squares, batch_size=3)
    texts = embed_captions(encoder, load_tokenizer(VOCABULARY), CAPTIONS, batch_size=4)
    return torch.from_numpy(images), torch.from_numpy(texts)


def assert_same_bits(one: torch.nn.Module, other: torch.nn.Module) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def from_hugging_face(folder: Path) -> tuple[dual_encoder.DualEncoder, list[str]]:
    start = HuggingFace(kind="hugging_face", model=str(folder), revision=sha256(folder / "model.safetensors"))
    return load.load_weights(start, SIZE_PX, TOKENS)


def from_cn_clip(file: Path) -> tuple[dual_encoder.DualEncoder, list[str]]:
    start = CnClip(kind="cn_clip", file=str(file), sha256=sha256(file), vocabulary=str(VOCABULARY))
    return load.load_weights(start, SIZE_PX, TOKENS)


def save_cn_clip(theirs: torch.nn.Module, file: Path, half: bool = False, prefix: str = "module.") -> Path:
    """Write a checkpoint as cn_clip's training does."""
    state = {f"{prefix}{name}": tensor.half() if half else tensor for name, tensor in theirs.state_dict().items()}
    torch.save({"epoch": 3, "step": 40, "name": "muge", "state_dict": state, "optimizer": {}}, file)
    return file


@torch.no_grad()
def test_a_hugging_face_model_and_ours_agree_on_images_and_sentences(tmp_path) -> None:
    from transformers import BertTokenizer, ChineseCLIPProcessor
    from transformers.models.chinese_clip.image_processing_pil_chinese_clip import ChineseCLIPImageProcessorPil

    theirs = chinese_clip_folder(tmp_path)
    # Pillow's resize, which the weights were trained with; torchvision's differs by a level here and there
    pillow = ChineseCLIPImageProcessorPil(size={"height": SIZE_PX, "width": SIZE_PX}, do_center_crop=False)
    processor = ChineseCLIPProcessor(pillow, BertTokenizer(vocab=str(VOCABULARY), do_lower_case=True))
    captions = [caption.replace("“", '"').replace("”", '"') for caption in CAPTIONS]
    options = {"padding": True, "truncation": True, "max_length": TOKENS}
    out = theirs(**processor(text=captions, images=draw_pictures(), return_tensors="pt", **options))
    encoder, tokens = from_hugging_face(tmp_path)
    images, texts = embed_all(encoder)
    torch.testing.assert_close(images, out.image_embeds, **NEAR)
    torch.testing.assert_close(texts, out.text_embeds, **NEAR)
    torch.testing.assert_close(encoder.scale, theirs.logit_scale.exp(), **NEAR)
    lines = VOCABULARY.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    assert tokens == [line.strip() for line in lines]  # transformers strips the line separator among them
    assert images.std(0).mean() > 0.01  # the images have different vectors
    assert texts.std(0).mean() > 0.01


@pytest.mark.parametrize("kind", VISIONS)
@torch.no_grad()
def test_a_cn_clip_model_and_ours_agree_on_images_and_sentences(tmp_path, kind: str) -> None:
    theirs = cn_clip_model(VISIONS[kind])
    transform = cn_clip.clip.image_transform(SIZE_PX)
    captions = [caption.lower().replace("“", '"').replace("”", '"') for caption in CAPTIONS]  # its data.py
    pixels = torch.stack([transform(picture) for picture in draw_pictures()])
    wanted_images, wanted_texts, scale = theirs(pixels, cn_clip.clip.tokenize(captions, TOKENS))
    encoder, _ = from_cn_clip(save_cn_clip(theirs, tmp_path / "clip.pt"))
    images, texts = embed_all(encoder.eval())
    torch.testing.assert_close(images, wanted_images, **NEAR)
    torch.testing.assert_close(texts, wanted_texts, **NEAR)
    torch.testing.assert_close(encoder.scale, scale, **NEAR)
    assert images.std(0).mean() > 1e-4  # an untrained ResNet sees little, but ten times what may differ
    assert texts.std(0).mean() > 0.01


# What captions are written in. Private and control characters are left out: transformers drops them, and cn_clip
# takes some for unknown tokens; so are rare scripts, whose marks the two know by different versions of Unicode.
BLOCKS = [(0x20, 0x24F), (0x370, 0x4FF), (0x2010, 0x27BF), (0x3000, 0x9FFF), (0xF900, 0xFAFF), (0xFF01, 0xFFEE)]
BLOCKS += [(0x1F300, 0x1F64F), (0x20000, 0x2A6D6)]
LETTERS = st.one_of(
    st.characters(min_codepoint=low, max_codepoint=high, exclude_categories=["Cn", "Co", "Cc", "Cf"])
    for low, high in BLOCKS
)


@example("[SEP]")
@example("一只[MASK]猫，[UNK]")
@given(st.text(st.one_of(st.sampled_from("熊猫吃竹子，。“”《》 aZ9éÄ~#’…—"), LETTERS), max_size=60))
def test_our_tokens_are_cn_clips(caption: str) -> None:
    plain = caption.lower().replace("“", '"').replace("”", '"')
    (wanted,) = cn_clip.clip.tokenize([plain], TOKENS).tolist()
    ids, _ = tokenize(TOKENIZER, [caption], TOKENS)
    assert ids[0].tolist() == [number for number in wanted if number]


TOKENIZER = load_tokenizer(VOCABULARY)


@pytest.mark.parametrize("kind", VISIONS)
@pytest.mark.parametrize("half", [False, True])
def test_cn_clips_weights_go_round_bit_for_bit(tmp_path, kind: str, half: bool) -> None:
    theirs = cn_clip_model(VISIONS[kind])
    encoder, tokens = from_cn_clip(save_cn_clip(theirs, tmp_path / "clip.pt", half))
    dual_encoder.save_model(encoder, tmp_path / "ours", tokens)
    assert_same_bits(dual_encoder.load_model(tmp_path / "ours"), encoder)
    export_model("cn_clip", tmp_path / "ours", tmp_path / "again.pt")
    assert_same_bits(from_cn_clip(tmp_path / "again.pt")[0], encoder)
    again = torch.load(tmp_path / "again.pt", weights_only=True)["state_dict"]
    back = cn_clip_model(VISIONS[kind])
    back.load_state_dict({name.removeprefix("module."): tensor for name, tensor in again.items()})
    for name, tensor in theirs.state_dict().items():
        wanted = tensor.half().float() if half and tensor.is_floating_point() else tensor
        assert torch.equal(back.state_dict()[name], wanted), name
    assert all(p.dtype == torch.float32 for p in encoder.parameters())


def test_hugging_faces_weights_go_round_bit_for_bit(tmp_path) -> None:
    from transformers import ChineseCLIPModel, ChineseCLIPProcessor

    theirs = chinese_clip_folder(tmp_path / "theirs")
    encoder, tokens = from_hugging_face(tmp_path / "theirs")
    dual_encoder.save_model(encoder, tmp_path / "ours", tokens)
    assert_same_bits(dual_encoder.load_model(tmp_path / "ours"), encoder)
    export_model("hugging_face", tmp_path / "ours", tmp_path / "again")
    assert_same_bits(ChineseCLIPModel.from_pretrained(tmp_path / "again"), theirs)
    again, same_tokens = from_hugging_face(tmp_path / "again")
    assert_same_bits(again, encoder)
    assert again.config == encoder.config
    assert same_tokens == tokens
    processor = ChineseCLIPProcessor.from_pretrained(tmp_path / "again")
    assert processor.tokenizer(["一只大熊猫"])["input_ids"] == TOKENIZER(["一只大熊猫"])["input_ids"]
    shape = processor(images=draw_pictures(), return_tensors="pt")["pixel_values"].shape
    assert shape[-2:] == (SIZE_PX, SIZE_PX)


def test_one_form_becomes_the_other_where_the_shape_allows(tmp_path) -> None:
    theirs = cn_clip_model()
    encoder, tokens = from_cn_clip(save_cn_clip(theirs, tmp_path / "clip.pt"))
    dual_encoder.save_model(encoder, tmp_path / "ours", tokens)
    export_model("hugging_face", tmp_path / "ours", tmp_path / "hf")
    crossed, _ = from_hugging_face(tmp_path / "hf")
    assert_same_bits(crossed, encoder)
    assert np.array_equal(*(embed_all(one.eval())[0].numpy() for one in (crossed, encoder)))


def test_bfloat16_weights_become_float32_masters(tmp_path) -> None:
    theirs = chinese_clip_folder(tmp_path).bfloat16()
    theirs.save_pretrained(tmp_path)
    encoder, _ = from_hugging_face(tmp_path)
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    assert torch.equal(encoder.text_projection.weight, theirs.text_projection.weight.float())


def test_a_folder_of_our_own_is_a_start_too(tmp_path) -> None:
    encoder, tokens = from_cn_clip(save_cn_clip(cn_clip_model(), tmp_path / "clip.pt", prefix=""))
    dual_encoder.save_model(encoder, tmp_path / "ours", tokens)
    start = Folder(
        kind="folder", folder=str(tmp_path / "ours"), sha256=sha256(tmp_path / "ours/model.safetensors")
    )
    again, same_tokens = load.load_weights(start, SIZE_PX, max_tokens=24)
    assert_same_bits(again, encoder)
    assert same_tokens == tokens
    assert again.config["text"]["max_tokens"] == 24


def test_a_vocabulary_of_ours_is_read_alike_by_transformers(tmp_path) -> None:
    from transformers import AutoTokenizer, ChineseCLIPProcessor

    captions = ["保温杯５００毫升", "促销🔥🔥", "陕西𰻞𰻞面", "龘", "ガラス", "“Nike”帽子", "[MASK]猫"]
    vocabulary = build_vocabulary(captions[:3])
    encoder, tokens = from_cn_clip(save_cn_clip(cn_clip_model(), tmp_path / "clip.pt"))
    padded = [*vocabulary, *(f"[unused{number}]" for number in range(len(tokens) - len(vocabulary)))]
    encoder.config["vocabulary"] = len(padded)
    table = encoder.text_tower.embeddings.word_embeddings
    table.weight = torch.nn.Parameter(table.weight[torch.arange(len(padded)) % len(table.weight)].detach())
    dual_encoder.save_model(encoder, tmp_path / "ours", padded)
    export_model("hugging_face", tmp_path / "ours", tmp_path / "theirs")
    ours = load_tokenizer(tmp_path / "ours/vocab.txt")(captions)["input_ids"]
    assert ours[0] != ours[3]
    for theirs in (AutoTokenizer, ChineseCLIPProcessor):
        read = theirs.from_pretrained(tmp_path / "theirs")
        tokenizer = getattr(read, "tokenizer", read)
        assert tokenizer(captions)["input_ids"] == ours
        assert (tokenizer.pad_token, tokenizer.unk_token, tokenizer.cls_token) == ("[PAD]", "[UNK]", "[CLS]")


def set_simplify(start: Folder | None, simplify: bool) -> Params:
    """Return the params of scratch with another start and switch."""
    params = check_preset(compose_preset("scratch", ROOT / "presets"))
    text = params.text.model_copy(update={"simplify": simplify, "max_tokens": TOKENS})
    changed: dict[str, object] = {"text": text}
    if start:
        changed["image"] = params.image.model_copy(update={"size_px": SIZE_PX})
        changed["baseline"] = params.baseline.model_copy(update={"start": start})
    return params.model_copy(update=changed)


def test_the_switch_of_training_is_that_of_asking(tmp_path) -> None:
    encoder, vocabulary = load.make_start(set_simplify(None, True), lambda: ["龍貓公仔", "一只猫"])
    dual_encoder.save_model(encoder, tmp_path, vocabulary)
    assert dual_encoder.load_model(tmp_path).config["text"]["simplify"]
    tokenizer = load_tokenizer(tmp_path / "vocab.txt")
    ids, _ = tokenize(tokenizer, ["龍貓公仔", "龙猫公仔"], TOKENS)
    assert ids[0].tolist() == ids[1].tolist()
    with pytest.raises(UserError, match=r"cannot be written as hugging_face: it reads simplified characters"):
        export_model("hugging_face", tmp_path, tmp_path / "theirs")


def test_without_the_switch_nothing_of_it_is_recorded(tmp_path) -> None:
    encoder, vocabulary = load.make_start(set_simplify(None, False), lambda: ["龍貓公仔", "龙猫公仔"])
    dual_encoder.save_model(encoder, tmp_path, vocabulary)
    assert "simplify" not in (tmp_path / "preprocessor.json").read_text(encoding="utf-8")
    ids, _ = tokenize(load_tokenizer(tmp_path / "vocab.txt"), ["龍貓公仔", "龙猫公仔"], TOKENS)
    assert ids[0].tolist() != ids[1].tolist()


def test_a_model_of_ours_starts_with_the_switch_it_was_trained_with(tmp_path) -> None:
    encoder, tokens = from_cn_clip(save_cn_clip(cn_clip_model(), tmp_path / "clip.pt", prefix=""))
    dual_encoder.save_model(encoder, tmp_path / "ours", tokens)
    start = Folder(
        kind="folder", folder=str(tmp_path / "ours"), sha256=sha256(tmp_path / "ours/model.safetensors")
    )
    assert "simplify" not in load.make_start(set_simplify(start, False), list)[0].config["text"]
    with pytest.raises(UserError, match=r"text\.simplify: the weights .+ trained with false, .+ got true"):
        load.make_start(set_simplify(start, True), list)
