"""Small dual encoders of transformers with drawn weights and tokenizers of their form, saved by the library."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image

from tests.support.weights import VOCABULARY, sha256, stir
from tuwen.core import params
from tuwen.model.weights.load import load_weights

SIZE_PX, PATCH_PX, DIM, TOKENS = 32, 16, 24, 16
CAPTIONS = [
    "一只大熊猫坐在竹林里吃竹子",
    "红色的iPhone15手机壳，【包邮】防摔",
    "他说：“左边是猫”, 右边是狗!",
    "",
    "故宫的雪" * 30,  # longer than TOKENS
]
TOWER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
VISION = TOWER | {"image_size": SIZE_PX, "patch_size": PATCH_PX}
KINDS = ("altclip", "chinese_clip", "clip", "metaclip_2", "siglip", "siglip2")


def save_library_model(kind: str, folder: Path) -> tuple[Any, Any]:
    """Save a model and its processor by transformers into `folder`, and return both."""
    import transformers

    tokenizer = TOKENIZERS[kind](folder)
    names = {"altclip": "AltCLIP", "chinese_clip": "ChineseCLIP", "clip": "CLIP", "metaclip_2": "MetaClip2"}
    name = names.get(kind, kind.capitalize())
    config = getattr(transformers, f"{name}Config")(**_make_parts(kind, len(tokenizer)))
    torch.manual_seed(0)
    model = stir(getattr(transformers, f"{name}Model")(config))
    model.save_pretrained(folder)
    processor = getattr(transformers, f"{name}Processor" if kind != "metaclip_2" else "CLIPProcessor")
    whole = processor(image_processor=_make_image_processor(kind), tokenizer=tokenizer)
    whole.save_pretrained(folder)
    return model, whole


def load_ours(kind: str, folder: Path, **changes: Any) -> tuple[Any, Any]:
    """Save a model by transformers and load it as ours; return the encoder and its vocabulary."""
    save_library_model(kind, folder)
    return load_weights(pin(folder, **changes), SIZE_PX, TOKENS)


def pin(folder: Path, **changes: Any) -> params.Transformers:
    """Return the start that names the model in a folder."""
    revision = sha256(folder / "model.safetensors")
    return params.Transformers.model_validate(
        {"kind": "transformers", "model": str(folder), "revision": revision} | changes
    )


def compute_by_library(model: Any, processor: Any, pictures: list[Image.Image], captions: list[str]) -> Any:
    """Return the library's output for all pairs, preprocessing and tokenisation included."""
    padding = "max_length" if model.config.model_type.startswith("siglip") else "longest"
    options = {"padding": padding, "max_length": TOKENS, "truncation": True, "return_tensors": "pt"}
    with torch.inference_mode():
        return model(
            **processor.tokenizer(captions, **options), **processor.image_processor(pictures, return_tensors="pt")
        )


def _make_parts(kind: str, tokens: int) -> dict[str, Any]:
    text: dict[str, Any] = TOWER | {"vocab_size": tokens, "max_position_embeddings": TOKENS}
    if kind.startswith("siglip"):
        vision = VISION | ({"num_patches": 4} if kind == "siglip2" else {})
        return {"text_config": text | {"projection_size": 32}, "vision_config": vision}
    if kind == "altclip":
        text |= {"max_position_embeddings": TOKENS + 2, "project_dim": DIM, "pad_token_id": 1}
    if kind in ("clip", "metaclip_2"):
        text |= {"eos_token_id": 2 if kind == "metaclip_2" else tokens - 1, "bos_token_id": 0, "pad_token_id": 1}
    return {"text_config": text, "vision_config": VISION, "projection_dim": DIM}


def _make_image_processor(kind: str) -> Any:
    import transformers

    square = {"height": SIZE_PX, "width": SIZE_PX}
    if kind == "siglip":
        return transformers.SiglipImageProcessorPil(size=square)
    if kind == "siglip2":
        return transformers.Siglip2ImageProcessorPil(patch_size=PATCH_PX, max_num_patches=6)
    if kind == "chinese_clip":
        return transformers.ChineseCLIPImageProcessorPil(size=square, do_center_crop=False)
    return transformers.CLIPImageProcessorPil(size={"shortest_edge": SIZE_PX + 4}, crop_size=square)


def _make_bert(_: Path) -> Any:
    from transformers import BertTokenizer

    return BertTokenizer(vocab=str(VOCABULARY), do_lower_case=True)


def _make_clip(_: Path) -> Any:
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    pieces = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        "ph",
        "one</w>",
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    merges = [("p", "h"), ("o", "n"), ("on", "e</w>")]
    pieces.insert(-2, "on")
    return CLIPTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, merges=merges)


def make_xlm_tokenizer(_: Path | None = None) -> Any:
    """Make a tokenizer of XLM-R's form."""
    from transformers import XLMRobertaTokenizer

    pieces = [
        *("<s>", "<pad>", "</s>", "<unk>", "▁"),
        *"一只大熊猫坐在竹林里吃子红色的",
        "熊猫",
        "▁一只",
        *"abcdefghijklmnop",
    ]
    vocabulary = [(piece, 0.0 if number < 4 else -float(number)) for number, piece in enumerate(pieces)]
    return XLMRobertaTokenizer(vocab=[*vocabulary, ("<mask>", 0.0)])


def _make_siglip(folder: Path) -> Any:
    import sentencepiece
    from transformers import SiglipTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "spiece.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([*CAPTIONS, "一张猫的照片", "a photo of a cat"]),
            model_writer=file,
            **{"vocab_size": 60, "hard_vocab_limit": False, "add_dummy_prefix": False, "bos_id": -1, "eos_id": 1},
            **{"pad_id": 0, "unk_id": 2, "minloglevel": 2},
        )
    return SiglipTokenizer(str(folder / "spiece.model"), model_max_length=TOKENS, model_input_names=["input_ids"])


def make_gemma_tokenizer(_: Path | None = None) -> Any:
    """Make a tokenizer of SigLIP 2's form, which is Gemma's in lower case."""
    from transformers import Siglip2Tokenizer

    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", *"一只大熊猫坐在竹林里吃子abcdefghijklmnopqrstuvwxyz0123456789", "熊猫", "ph"]
    merges = [("熊", "猫"), ("p", "h")]
    return Siglip2Tokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)},
        merges=merges,
        padding_side="right",
        model_input_names=["input_ids"],
    )


TOKENIZERS = {
    **{
        "altclip": make_xlm_tokenizer,
        "chinese_clip": _make_bert,
        "clip": _make_clip,
        "metaclip_2": make_xlm_tokenizer,
    },
    **{"siglip": _make_siglip, "siglip2": make_gemma_tokenizer},
}
