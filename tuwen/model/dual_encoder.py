"""The dual encoder: an image tower and a text tower that map into one space of unit vectors.

A model folder holds config.json (the layers), model.safetensors, vocab.txt or `tokenizer/`, a library's own
files, and preprocessor.json (how images and texts are prepared for the layers). Shapes: B items, S pixels a
side, L tokens of a text, P of an image, W width of a tower, D dimensions of the common space.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tuwen.core.errors import UserError
from tuwen.data.formats import images
from tuwen.data.formats.json_file import read_json, write_json
from tuwen.data.formats.picture_rule import PictureRule
from tuwen.data.formats.text import Vocabulary
from tuwen.data.formats.tokens import library_tokenizer, padding
from tuwen.data.formats.tokens.library_tokenizer import TokenizerFiles
from tuwen.model import image_tokens, state_dict, towers, vocabulary_file
from tuwen.model.stored_model import REMAKE

START_SCALE = 1 / 0.07  # 1 / temperature, as CLIP begins
MAX_SCALE = 100.0  # CLIP's clamp: the temperature never falls below 0.01
START_BIAS = -10.0  # of every logit, as SigLIP begins (Zhai et al. 2023, section 3.2)
MODEL_FILES = ("config.json", "model.safetensors", "vocab.txt", "preprocessor.json")  # of a model folder


class DualEncoder(nn.Module):
    """Image tower, text tower, a projection each and a temperature; `config` alone decides what is built.

    config: `dim`; `image` (`kind`, `size_px` and what towers.py names, `mean` and `std` of the pixels, 0..1,
    where they are not CLIP's, and `rule`, of a PictureRule what is not the project's); `text` (`max_tokens`,
    `width`, `layers`, `dropout`, what towers.py names, `simplify`: captions are read in simplified characters,
    and `pool`: `first` takes the vector of [CLS], `mean` the average over the tokens); `vocabulary` (a number of
    tokens); `sigmoid`: it was trained by SigLIP's loss, and has a bias beside the temperature; `matryoshka`:
    the first so many dimensions can be used alone. Towers of a library bring pooling and projection.
    """

    pixel_factor: Tensor
    pixel_shift: Tensor

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.image_tower = towers.make_image_tower(config["image"], config["dim"])
        self.text_tower = towers.make_text_tower(config["text"], config["vocabulary"])
        self.takes_token_vectors = "kind" not in config["text"]  # as `encode_text` may be given them
        width, dim = config["text"]["width"], config["dim"]
        self.text_projection = nn.Linear(width, dim, bias=False) if self.takes_token_vectors else nn.Identity()
        self.log_scale = nn.Parameter(torch.tensor(math.log(START_SCALE)))
        self.logit_bias = nn.Parameter(torch.tensor(START_BIAS)) if config.get("sigmoid") else None
        self._pool_first: bool = config["text"].get("pool", "mean") == "first"
        self._own_pixels = "mean" in config["image"]
        for name, values_3 in _make_own_pixels(config["image"]).items():
            self.register_buffer(name, values_3[:, None, None], persistent=False)

    def encode_image(self, pixels_B3SS: Tensor) -> Tensor:
        """Map pixels [B, 3, S, S], normalised by CLIP's mean and deviation, to unit vectors [B, D], float32."""
        return nn.functional.normalize(self.image_tower(self._take_over(pixels_B3SS)).float(), dim=-1)

    def pool_image(self, pixels_B3SS: Tensor) -> Tensor:
        """Map pixels to what the image tower's projection reads, [B, F]; see `require_projections`."""
        tower: Any = self.image_tower
        pooled_BF: Tensor = tower.pool(self._take_over(pixels_B3SS))
        return pooled_BF

    def project_image(self, pooled_BF: Tensor) -> Tensor:
        """Map what `pool_image` returned to unit vectors [B, D], float32: both together are `encode_image`."""
        tower: Any = self.image_tower
        return nn.functional.normalize(tower.projection(pooled_BF).float(), dim=-1)

    def encode_image_tokens(self, pixels_B3SS: Tensor) -> tuple[Tensor, Tensor]:
        """Map pixels to the vectors of `encode_image`, bit for bit, and the tokens of image_tokens.py [B, P, W].

        Raises UserError for a tower without tokens.
        """
        out_BD, tokens_BPW = image_tokens.embed_with_tokens(self.image_tower, self._take_over(pixels_B3SS))
        return nn.functional.normalize(out_BD.float(), dim=-1), tokens_BPW

    def _take_over(self, pixels_B3SS: Tensor) -> Tensor:
        """Return pixels in the mean and deviation that this model was trained with."""
        return pixels_B3SS * self.pixel_factor + self.pixel_shift if self._own_pixels else pixels_B3SS

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Map token ids [...] to their vectors [..., W] in the text tower's table."""
        tower: Any = self.text_tower
        vectors: Tensor = tower.get_input_embeddings()(ids)
        return vectors

    def encode_text(self, ids_BL: Tensor, mask_BL: Tensor, token_BLW: Tensor | None = None) -> Tensor:
        """Map token ids and mask [B, L] to unit vectors [B, D], float32.

        mask_BL: best on the CPU (padding.py). token_BLW: what `embed_tokens` returned for the ids, or None.
        """
        if not self.takes_token_vectors:
            mask_BL = mask_BL.to(ids_BL.device, non_blocking=True)
            return nn.functional.normalize(self.text_tower(ids_BL, mask_BL).float(), dim=-1)
        return self.encode_text_tokens(ids_BL, mask_BL, token_BLW)[0]

    def encode_text_tokens(
        self, ids_BL: Tensor, mask_BL: Tensor, token_BLW: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Map texts to the vectors of `encode_text` and to the states [B, L, W] of its last layer, [CLS] first.

        Not of a library's towers: `image_tokens.py` refuses those before.
        """
        mask = padding.make_attention_mask(mask_BL, ids_BL.device)
        hidden_BLW = self.text_tower(ids_BL, mask, token_BLW)
        return self.project_text(self._pool_states(hidden_BLW, mask_BL)), hidden_BLW

    def pool_text(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Map token ids and mask [B, L] to what the projection of the text tower reads, [B, W]."""
        mask = padding.make_attention_mask(mask_BL, ids_BL.device)
        hidden_BLW = self.text_tower(ids_BL, mask)
        return self._pool_states(hidden_BLW, mask_BL)

    def project_text(self, pooled_BW: Tensor) -> Tensor:
        """Map what `pool_text` returned to unit vectors [B, D], float32: both together are `encode_text`."""
        return nn.functional.normalize(self.text_projection(pooled_BW).float(), dim=-1)

    def _pool_states(self, hidden_BLW: Tensor, mask_BL: Tensor) -> Tensor:
        if self._pool_first:
            return hidden_BLW[:, 0]
        weight_BL1 = mask_BL[..., None].to(hidden_BLW, non_blocking=True)
        return (hidden_BLW * weight_BL1).sum(1) / weight_BL1.sum(1)

    @property
    def picture_rule(self) -> PictureRule:
        """How a picture becomes what this model sees."""
        image = self.config["image"]
        return PictureRule(image["size_px"], **image.get("rule", {}))

    @property
    def max_scale(self) -> float:
        """The largest `scale`: CLIP's clamp, which SigLIP has not."""
        return math.inf if self.logit_bias is not None else MAX_SCALE

    @property
    def scale(self) -> Tensor:
        """The learned factor of the cosines, 1 / temperature, at most `max_scale`."""
        return self.log_scale.exp().clamp(max=self.max_scale)

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Turn activation checkpointing of both towers on or off: a third more computing for less memory."""
        towers.set_image_checkpointing(self.image_tower, enabled)
        towers.set_text_checkpointing(self.text_tower, enabled)


def _make_own_pixels(image: dict[str, Any]) -> dict[str, Tensor]:
    """Return what takes pixels from CLIP's mean and deviation to this model's own, [3] each; {}: it has CLIP's."""
    if "mean" not in image:
        return {}
    mean, std = (torch.tensor(values, dtype=torch.float64) / 255 for values in (images.MEAN, images.STD))
    own_mean, own_std = (torch.tensor(image[name], dtype=torch.float64) for name in ("mean", "std"))
    return {"pixel_factor": (std / own_std).float(), "pixel_shift": ((mean - own_mean) / own_std).float()}


def require_projections(model: DualEncoder, setting: str) -> None:
    """Raise UserError, naming `setting`, for a model whose towers and projections cannot be told apart."""
    if not (hasattr(model.image_tower, "pool") and isinstance(model.text_projection, nn.Linear)):
        raise UserError(
            f"params.yaml: {setting}: this model's picture tower has its projection inside, so that it cannot be "
            "trained alone; take another tower, or freeze none, text or image"
        )


def list_tensors(config: dict[str, Any]) -> list[str]:
    """Return the names of the tensors of a DualEncoder of `config`, without memory for them and without a draw."""
    with torch.device("meta"):
        return list(DualEncoder(config).state_dict())


def save_model(model: DualEncoder, folder: Path, vocabulary: Vocabulary) -> None:
    """Write config.json, model.safetensors, vocab.txt or `tokenizer/`, and preprocessor.json into `folder`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    for name, body in (("config.json", model.config), ("preprocessor.json", _make_preprocessor(model.config))):
        write_json(folder / name, body, sort_keys=True)
    if isinstance(vocabulary, TokenizerFiles):
        library_tokenizer.write_tokenizer_files(vocabulary, folder / library_tokenizer.TOKENIZER_FOLDER)
    else:
        (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    save_file({k: _pack(v) for k, v in model.state_dict().items()}, folder / "model.safetensors")


def _pack(tensor: Tensor) -> Tensor:
    """Return a tensor as it is stored: a matrix in half precision where that loses not a bit of it.

    So frozen towers take half the disk that they would take in float32, whatever they were published in.
    """
    half = tensor.half()
    loses = tensor.ndim < 2 or tensor.dtype != torch.float32 or not torch.equal(half.float(), tensor)
    return (tensor if loses else half).contiguous()


def _make_preprocessor(config: dict[str, Any]) -> dict[str, Any]:
    """Return preprocessor.json: what another program must do to feed the model. `load_model` requires the same."""
    image, text = config["image"], config["text"]
    pixels = {name: image.get(name, [value / 255 for value in clip]) for name, clip in images.CLIP_PIXELS.items()}
    simplify = {"simplify": True} if text.get("simplify") else {}
    if "kind" in text:
        own = {"rule": image.get("rule", {"fit": "project"}), "size_px": image["size_px"], **pixels}
        padding = {"padding": text.get("padding", "longest"), "max_tokens": text["max_tokens"]}
        padding |= {"clean": text["clean"]} if "clean" in text else {}
        return {"image": own, "text": {"tokenizer": library_tokenizer.TOKENIZER_FOLDER, **padding, **simplify}}
    rule = "EXIF rotation; RGB on white; aspect over max_aspect cut, centred; squashed to a square"
    return {
        "image": {"rule": rule, "max_aspect": images.MAX_ASPECT, "size_px": image["size_px"], **pixels}
        | {"resample": "antialiased bicubic", "scale": 1 / 255},
        "text": {"lower_case": True, "max_tokens": text["max_tokens"]}
        | {"tokenizer": text.get("tokenizer", "BERT WordPiece")}
        | simplify,
    }


def load_model(folder: Path) -> DualEncoder:
    """Build the model that `save_model` wrote, on the CPU and in evaluation mode.

    Raises UserError where a file is missing or broken, or the weights do not fit.
    """
    config = read_json(folder / "config.json", REMAKE)
    tokens = read_vocabulary(folder)
    try:
        model = DualEncoder(config)
        expected = _make_preprocessor(config)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder / 'config.json'}: no layers can be built by it ({error!r}); {REMAKE}") from None
    if read_json(folder / "preprocessor.json", REMAKE) != expected:
        raise UserError(f"{folder / 'preprocessor.json'}: is not what config.json says; {REMAKE}")
    if isinstance(tokens, list) and len(tokens) > config["vocabulary"]:
        raise UserError(
            f"{folder / 'vocab.txt'}: expected {config['vocabulary']} tokens at most, as config.json says, got "
            f"{len(tokens)}; {REMAKE}"
        )
    weights = folder / "model.safetensors"
    state_dict.fill_layers(model, state_dict.read_state(weights), weights)
    return model.eval()


def read_vocabulary(folder: Path) -> Vocabulary:
    """Return the tokens of the model in `folder`, in the order of their ids, or a library's files."""
    own = folder / library_tokenizer.TOKENIZER_FOLDER
    if own.is_dir() and not (folder / "vocab.txt").exists():
        return library_tokenizer.read_tokenizer_files(own)
    return vocabulary_file.read_token_lines(folder / "vocab.txt", REMAKE)
