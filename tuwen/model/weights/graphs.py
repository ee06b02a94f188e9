"""A model as two programs of torch.export, which run where torch is, without this library.

    image.pt2           pixels [B, 3, S, S], normalised as preprocessor.json here says -> unit vectors [B, D]
    text.pt2            token ids [B, L] and mask [B, L], int64 -> unit vectors [B, D]
    vocab.txt           the tokens in the order of their ids, and
    tokenizer.json      how captions become them, for the package tokenizers; or
    tokenizer/          the files of a library's
    preprocessor.json   how pictures and texts are prepared: for every model by CLIP's mean and deviation, which
                        the program turns into the model's own

B and L are free, L up to the model's `max_tokens`; or L is that, where all texts are padded to it.
"""

import shutil
from pathlib import Path

import torch
from torch import Tensor, nn

from tuwen.data.formats.images import CLIP_PIXELS
from tuwen.data.formats.json_file import read_json, write_json
from tuwen.data.formats.text import load_tokenizer
from tuwen.data.formats.tokens import library_tokenizer
from tuwen.model.dual_encoder import DualEncoder

FILES = ("vocab.txt", library_tokenizer.TOKENIZER_FOLDER)  # of which a model has what it needs


class _Images(nn.Module):
    def __init__(self, encoder: DualEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels_B3SS: Tensor) -> Tensor:
        return self.encoder.encode_image(pixels_B3SS)


class _Texts(nn.Module):
    def __init__(self, encoder: DualEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        return self.encoder.encode_text(ids_BL, mask_BL)


def write_graphs(encoder: DualEncoder, folder: Path, out: Path) -> None:
    """Write the programs of `encoder`, and the files of its `folder` that say how to feed them, into `out`.

    The encoder is used up: each program is given only the tower that it needs.
    """
    size_px, max_tokens = encoder.config["image"]["size_px"], encoder.config["text"]["max_tokens"]
    batch, tokens = torch.export.Dim("batch", min=1), torch.export.Dim("tokens", min=1, max=max_tokens)
    pixels, ids = torch.zeros(2, 3, size_px, size_px), torch.ones(2, max_tokens, dtype=torch.long)
    # models that read texts of one length are given that
    free = {0: batch} | ({1: tokens} if encoder.config["text"].get("padding") != "max_length" else {})
    out.mkdir(parents=True)
    text_tower, encoder.text_tower = encoder.text_tower, nn.Identity()
    with torch.no_grad():
        images = torch.export.export(_Images(encoder), (pixels,), dynamic_shapes=({0: batch},))
        torch.export.save(images, out / "image.pt2")
        encoder.image_tower, encoder.text_tower = nn.Identity(), text_tower
        texts = torch.export.export(_Texts(encoder), (ids, torch.ones_like(ids)), dynamic_shapes=(free, free))
        torch.export.save(texts, out / "text.pt2")
    for name in FILES:
        if (folder / name).is_dir():
            shutil.copytree(folder / name, out / name)
        elif (folder / name).is_file():
            shutil.copy(folder / name, out / name)
    rules = read_json(folder / "preprocessor.json")
    rules["image"] |= {name: [value / 255 for value in clip] for name, clip in CLIP_PIXELS.items()}
    write_json(out / "preprocessor.json", rules, sort_keys=True)
    if (folder / "vocab.txt").is_file():
        load_tokenizer(folder / "vocab.txt").backend_tokenizer.save(str(out / "tokenizer.json"))
