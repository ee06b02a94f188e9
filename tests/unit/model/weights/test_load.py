"""Parity with the packages that publish Chinese-CLIP, from the pictures and sentences on, and round trips."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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
    pictures,
    sha256,
)
from tuwen.core.params import CnClip, Folder, HuggingFace
from tuwen.data.formats.images import resize_to_square
from tuwen.data.formats.text import load_tokenizer, tokenize
from tuwen.model import dual_encoder
from tuwen.model.weights import cn_clip as weights_cn_clip
from tuwen.model.weights import load
from tuwen.retrieval.encode import embed_captions, embed_images

NEAR = {"atol": 1e-5, "rtol": 0}
SHAPES = {"vit": VIT, "resnet": RESNET}


def ours(encoder: dual_encoder.DualEncoder) -> tuple[torch.Tensor, torch.Tensor]:
    """Our vectors of all pictures and captions, by the way that the stages take."""
    squares = [resize_to_square(picture, SIZE_PX) for picture in pictures()]
    images = embed_images(encoder, squares, batch_size=3)
    texts = embed_captions(encoder, load_tokenizer(VOCABULARY), CAPTIONS, batch_size=4)
    return torch.from_numpy(images), torch.from_numpy(texts)


def same_bits(one: torch.nn.Module, other: torch.nn.Module) -> None:
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
    """A checkpoint as cn_clip's training writes it."""
    state = {f"{prefix}{name}": tensor.half() if half else tensor for name, tensor in theirs.state_dict().items()}
    torch.save({"epoch": 3, "step": 40, "name": "muge", "state_dict": state, "optimizer": {}}, file)
    return file


@torch.no_grad()
def test_a_hugging_face_model_and_ours_agree_on_pictures_and_sentences(tmp_path) -> None:
    from transformers import BertTokenizer, ChineseCLIPProcessor
    from transformers.models.chinese_clip.image_processing_pil_chinese_clip import ChineseCLIPImageProcessorPil

    theirs = chinese_clip_folder(tmp_path)
    # Pillow's resize, which the weights were trained with; torchvision's differs by a level here and there
    pillow = ChineseCLIPImageProcessorPil(size={"height": SIZE_PX, "width": SIZE_PX}, do_center_crop=False)
    processor = ChineseCLIPProcessor(pillow, BertTokenizer(vocab=str(VOCABULARY), do_lower_case=True))
    told = [caption.replace("“", '"').replace("”", '"') for caption in CAPTIONS]
    asked = {"padding": True, "truncation": True, "max_length": TOKENS}
    given = processor(text=told, images=pictures(), return_tensors="pt", **asked)
    out = theirs(**given)
    encoder, tokens = from_hugging_face(tmp_path)
    images, texts = ours(encoder)
    torch.testing.assert_close(images, out.image_embeds, **NEAR)
    torch.testing.assert_close(texts, out.text_embeds, **NEAR)
    torch.testing.assert_close(encoder.scale, theirs.logit_scale.exp(), **NEAR)
    lines = VOCABULARY.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    assert tokens == [line.strip() for line in lines]  # transformers strips the line separator among them
    assert images.std(0).mean() > 0.01  # the pictures are told apart
    assert texts.std(0).mean() > 0.01


@pytest.mark.parametrize("kind", SHAPES)
@torch.no_grad()
def test_a_cn_clip_model_and_ours_agree_on_pictures_and_sentences(tmp_path, kind: str) -> None:
    theirs = cn_clip_model(SHAPES[kind])
    transform = cn_clip.clip.image_transform(SIZE_PX)
    told = [caption.lower().replace("“", '"').replace("”", '"') for caption in CAPTIONS]  # its data.py
    pixels = torch.stack([transform(picture) for picture in pictures()])
    wanted, said, scale = theirs(pixels, cn_clip.clip.tokenize(told, TOKENS))
    encoder, _ = from_cn_clip(save_cn_clip(theirs, tmp_path / "clip.pt"))
    images, texts = ours(encoder.eval())
    torch.testing.assert_close(images, wanted, **NEAR)
    torch.testing.assert_close(texts, said, **NEAR)
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


@given(st.text(st.one_of(st.sampled_from("熊猫吃竹子，。“”《》 aZ9éÄ~#’…—"), LETTERS), max_size=60))
def test_our_tokens_are_cn_clips(caption: str) -> None:
    told = caption.lower().replace("“", '"').replace("”", '"')
    (wanted,) = cn_clip.clip.tokenize([told], TOKENS).tolist()
    ids, _ = tokenize(TOKENIZER, [caption], TOKENS)
    assert ids[0].tolist() == [number for number in wanted if number]


TOKENIZER = load_tokenizer(VOCABULARY)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("half", [False, True])
def test_cn_clips_weights_go_round_bit_for_bit(tmp_path, kind: str, half: bool) -> None:
    theirs = cn_clip_model(SHAPES[kind])
    encoder, tokens = from_cn_clip(save_cn_clip(theirs, tmp_path / "clip.pt", half))
    dual_encoder.save_model(encoder, tmp_path / "ours", tokens)
    same_bits(dual_encoder.load_model(tmp_path / "ours"), encoder)
    load.export_model("cn_clip", tmp_path / "ours", tmp_path / "again.pt")
    same_bits(from_cn_clip(tmp_path / "again.pt")[0], encoder)
    again = torch.load(tmp_path / "again.pt", weights_only=True)["state_dict"]
    back = cn_clip_model(SHAPES[kind])
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
    same_bits(dual_encoder.load_model(tmp_path / "ours"), encoder)
    load.export_model("hugging_face", tmp_path / "ours", tmp_path / "again")
    same_bits(ChineseCLIPModel.from_pretrained(tmp_path / "again"), theirs)
    again, known = from_hugging_face(tmp_path / "again")
    same_bits(again, encoder)
    assert again.config == encoder.config
    assert known == tokens
    processor = ChineseCLIPProcessor.from_pretrained(tmp_path / "again")
    assert processor.tokenizer("一只大熊猫")["input_ids"] == TOKENIZER("一只大熊猫")["input_ids"]
    shape = processor(images=pictures(), return_tensors="pt")["pixel_values"].shape
    assert shape[-2:] == (SIZE_PX, SIZE_PX)


def test_one_form_becomes_the_other_where_the_shape_allows(tmp_path) -> None:
    theirs = cn_clip_model()
    encoder, tokens = from_cn_clip(save_cn_clip(theirs, tmp_path / "clip.pt"))
    dual_encoder.save_model(encoder, tmp_path / "ours", tokens)
    load.export_model("hugging_face", tmp_path / "ours", tmp_path / "hf")
    crossed, _ = from_hugging_face(tmp_path / "hf")
    same_bits(crossed, encoder)
    assert np.array_equal(*(ours(one.eval())[0].numpy() for one in (crossed, encoder)))


def test_bfloat16_weights_become_float32_masters(tmp_path) -> None:
    theirs = chinese_clip_folder(tmp_path).bfloat16()
    theirs.save_pretrained(tmp_path)
    encoder, _ = from_hugging_face(tmp_path)
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    assert torch.equal(encoder.text_projection.weight, theirs.text_projection.weight.float())


def test_our_own_folder_is_a_start_too(tmp_path) -> None:
    encoder, tokens = from_cn_clip(save_cn_clip(cn_clip_model(), tmp_path / "clip.pt", prefix=""))
    dual_encoder.save_model(encoder, tmp_path / "ours", tokens)
    start = Folder(
        kind="folder", folder=str(tmp_path / "ours"), sha256=sha256(tmp_path / "ours/model.safetensors")
    )
    again, known = load.load_weights(start, SIZE_PX, max_tokens=24)
    same_bits(again, encoder)
    assert known == tokens
    assert again.config["text"]["max_tokens"] == 24


@pytest.mark.parametrize("name", weights_cn_clip.shapes.NAMES)
def test_a_published_name_has_cn_clips_tensors_and_hugging_faces(name: str) -> None:
    from tests.support.weight_shapes import hugging_face, published

    config = weights_cn_clip.shapes.chinese_clip(name, max_tokens=TOKENS)
    with torch.device("meta"):
        encoder = dual_encoder.DualEncoder(config)
    state = published(name).state_dict()
    assert weights_cn_clip.config(state, TOKENS, Path("clip.pt")) == config
    found = weights_cn_clip.load(state, list(encoder.state_dict()), Path("clip.pt"))
    assert {n: t.shape for n, t in found.items()} == {n: t.shape for n, t in encoder.state_dict().items()}
    if config["image"]["kind"] == "vit":
        assert hugging_face(encoder) == {}
