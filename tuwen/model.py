"""The dual encoder: a picture tower and a text tower that map into one space of unit vectors.

Shapes: B items, S pixels a side, L tokens, D dimensions of the common space, I images, T texts.
"""

import json
import math
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from tuwen.errors import UserError

START_SCALE = 1 / 0.07  # CLIP's first temperature
MAX_SCALE = 100.0  # CLIP's clamp: scores never divide by less than 0.01


class DualEncoder(nn.Module):
    """Picture tower (open_clip ViT) and text tower (transformers BERT), a projection each, a temperature.

    config: `dim`, `image` {size_px, patch_px, width, layers, patch_dropout}, `text` {width, layers, dropout,
    max_tokens}, `vocabulary` (number of tokens); all that is needed to build the same layers again.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.image_tower = _image_tower(config["image"], config["dim"])
        self.text_tower = _text_tower(config["text"], config["vocabulary"])
        self.text_projection = nn.Linear(config["text"]["width"], config["dim"], bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(START_SCALE)))

    def encode_image(self, pixels_B3SS: Tensor) -> Tensor:
        """Normalised pixels [B, 3, S, S] -> unit vectors [B, D], float32."""
        return nn.functional.normalize(self.image_tower(pixels_B3SS).float(), dim=-1)

    def encode_text(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Token ids and mask [B, L] -> unit vectors [B, D], float32; the mean over the tokens is projected."""
        hidden_BLW = self.text_tower(input_ids=ids_BL, attention_mask=mask_BL).last_hidden_state
        weight_BL1 = mask_BL[..., None].to(hidden_BLW.dtype)
        mean_BW = (hidden_BLW * weight_BL1).sum(1) / weight_BL1.sum(1)
        return nn.functional.normalize(self.text_projection(mean_BW).float(), dim=-1)

    def set_gradient_checkpointing(self, on: bool) -> None:
        """Keep each layer's input alone and compute the rest again in the backward pass, or not."""
        image, text = cast(Any, self.image_tower), cast(Any, self.text_tower)
        image.set_grad_checkpointing(on)
        if on:
            text.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            text.gradient_checkpointing_disable()

    @property
    def scale(self) -> Tensor:
        """The learned factor before the softmax, 1 / temperature, at most MAX_SCALE."""
        return self.log_scale.exp().clamp(max=MAX_SCALE)


def device() -> str:
    """Where to compute: the GPU when there is one. Never decides what is computed."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def match(image_ID: Tensor, text_TD: Tensor) -> Tensor:
    """Unit vectors of images [I, D] and texts [T, D] -> cosine in [-1, 1], shape [I, T].

    Top-k along a row answers I2T (a picture asks for texts), along a column T2I.
    """
    return image_ID @ text_TD.T


def save(model: DualEncoder, folder: Path, vocabulary: list[str]) -> None:
    """Write config.json, model.safetensors and vocab.txt into `folder`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(model.config, indent=1, sort_keys=True) + "\n")
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")


def load(folder: Path) -> DualEncoder:
    """Build the model that `save` wrote, in evaluation mode. Raises UserError when files or weights do not fit."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        model = DualEncoder(json.loads((folder / "config.json").read_text()))
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: missing; make the model with `dvc repro` or `dvc pull`") from None
    except (SafetensorError, RuntimeError, json.JSONDecodeError) as error:
        raise UserError(f"{folder}: this model cannot be loaded: {error}") from None
    return model.eval()


def read_vocabulary(folder: Path) -> list[str]:
    """The tokens of the model in `folder`, in the order of their ids."""
    return (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()


def _image_tower(config: dict[str, Any], dim: int) -> nn.Module:
    from tuwen.compat import declare_torchvision_ops

    declare_torchvision_ops()
    try:
        from open_clip.transformer import VisionTransformer
    except ImportError:
        raise UserError("this picture tower is built by open_clip: pip install 'tuwen[towers]'") from None
    tower: nn.Module = VisionTransformer(
        image_size=config["size_px"],
        patch_size=config["patch_px"],
        width=config["width"],
        layers=config["layers"],
        heads=max(1, config["width"] // 64),
        mlp_ratio=4.0,
        output_dim=dim,
        patch_dropout=config["patch_dropout"],
        pool_type="avg",
    )
    return tower


def _text_tower(config: dict[str, Any], vocabulary: int) -> nn.Module:
    from transformers import BertConfig, BertModel

    shape = BertConfig(
        vocab_size=vocabulary,
        hidden_size=config["width"],
        num_hidden_layers=config["layers"],
        num_attention_heads=max(1, config["width"] // 64),
        intermediate_size=4 * config["width"],
        max_position_embeddings=config["max_tokens"],
        hidden_dropout_prob=config["dropout"],
        attention_probs_dropout_prob=config["dropout"],
    )
    tower: nn.Module = BertModel(shape, add_pooling_layer=False)
    return tower
