"""What changes the weights and what must not: optimizers, learning rate, frozen towers, averages of weights."""

import contextlib
import copy
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tuwen.model.tower_layers import count_layers_above, list_tower_parameters
from tuwen.training.engines.local import get_local, split_group

if TYPE_CHECKING:  # pydantic is not needed to step on tensors
    from tuwen.core.params import Loop

ParameterGroups = defaultdict[
    tuple[float, float], list[nn.Parameter]
]  # learning rate and weight decay -> parameters
IN_BLOCK = re.compile(r"\.\d+\.")  # a parameter of one of a tower's numbered layers


def make_optimizers(model: nn.Module, fit: "Loop") -> list[torch.optim.Optimizer]:
    """Return AdamW for everything, or for all but the towers' hidden matrices, which `fit.muon_lr` gives to Muon.

    Weight decay falls on matrices alone, never on norms, biases, embeddings and the temperature. Muon (Jordan et
    al. 2024) makes each step's update orthogonal: in few steps it learns far more (docs/log.md). A group has one
    rate, its `initial_lr`. Raises UserError as `choose_rates`.
    """
    adamw, muon = ParameterGroups(list), ParameterGroups(list)
    rates = choose_rates(model, fit)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        lr, factor = rates.get(name, (fit.lr, 1.0))
        if parameter.ndim < 2 or ("embed" in name and "patch_embed" not in name):
            adamw[lr * factor, 0.0].append(parameter)
        elif fit.muon_lr is not None and parameter.ndim == 2 and IN_BLOCK.search(name):
            muon[fit.muon_lr * factor, fit.weight_decay].append(parameter)
        else:
            adamw[lr * factor, fit.weight_decay].append(parameter)
    groups = [part for group in _list_groups(adamw) for part in split_group(group, group["params"])]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=fit.lr, betas=(0.9, 0.98), fused=True)]
    if fit.muon_lr is not None:
        optimizers.append(torch.optim.Muon(_list_groups(muon), lr=fit.muon_lr, adjust_lr_fn="match_rms_adamw"))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers


def choose_rates(model: nn.Module, fit: "Loop") -> dict[str, tuple[float, float]]:
    """Return for the towers' parameters the peak learning rate of AdamW, and the factor of their layer.

    Without the projections, and empty where all have one rate. Raises UserError as `count_layers_above`.
    """
    tower_lr, decay = getattr(fit, "tower_lr", None), getattr(fit, "layer_decay", 1.0)  # of a Fit alone
    if tower_lr is None and decay == 1.0:
        return {}
    setting = f"params.yaml: baseline.fit or finetune.fit: layer_decay: {decay:g}"
    above = count_layers_above(model, setting) if decay != 1.0 else {}
    lr = fit.lr if tower_lr is None else tower_lr
    return {name: (lr, decay ** above.get(name, 0)) for name in list_tower_parameters(model)}


def _list_groups(groups: ParameterGroups) -> list[dict[str, Any]]:
    """Return them as torch has them, the largest rates first."""
    ordered = sorted(groups.items(), key=lambda item: item[0], reverse=True)
    return [{"params": members, "lr": lr, "weight_decay": decay} for (lr, decay), members in ordered]


def compute_lr_factor(done: int, steps: int, warmup_steps: int) -> float:
    """Return the factor of the learning rate after `done` of `steps`: linear warm-up, then a cosine to zero."""
    return min(1.0, (done + 1) / max(1, warmup_steps)) * (0.5 + 0.5 * math.cos(math.pi * done / steps))


def freeze(model: nn.Module, tower: str) -> None:
    """Keep a tower, "text" or "image", and its projection as they are (LiT, Zhai et al. 2022); "none": neither.

    "towers": both towers, without their projections.
    """
    for name, parameter in model.named_parameters():
        frozen = _is_inside_tower(name) if tower == "towers" else name.startswith(f"{tower}_")
        parameter.requires_grad_(not frozen)


def _is_inside_tower(name: str) -> bool:
    return name.startswith(("image_tower.", "text_tower.")) and not name.startswith("image_tower.projection.")


def set_modes(model: nn.Module, frozen: str) -> None:
    """Set training mode, but evaluation mode for the frozen tower, whose dropout would change what it computes."""
    model.train()
    for name, child in model.named_children():
        if name.startswith(f"{frozen}_"):
            child.eval()


class Ema:
    """The exponential moving average of a model's weights, with a smaller decay in the first steps."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self.weights: dict[str, Tensor] = {name: value.clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, done: int) -> None:
        """Take in the weights after `done` steps, counted from 1."""
        decay = min(self._decay, (1 + done) / (10 + done))
        _move_towards(self.weights, model.state_dict(), 1 - decay)

    @contextlib.contextmanager
    def apply_to(self, model: nn.Module) -> Iterator[None]:
        """Give the model the averaged weights inside the block."""
        own = {name: value.clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.weights)
        yield
        model.load_state_dict(own)


class Teacher:
    """A momentum teacher (He et al. 2020): a second model that follows the first one, and is never trained itself.

    It is in evaluation mode: what it says of the whole input is not blurred by dropout.
    """

    def __init__(self, model: nn.Module, momentum: float) -> None:
        self.model: Any = copy.deepcopy(model).eval().requires_grad_(False)
        self._momentum = momentum

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights and buffers after a step: momentum x teacher + (1 - momentum) x model."""
        _move_towards(self.model.state_dict(), model.state_dict(), 1 - self._momentum)


def _move_towards(average: Mapping[str, Tensor], state: Mapping[str, Tensor], share: float) -> None:
    """Move floating numbers in place by `share` of the way, buffers such as BatchNorm's too; copy all others."""
    floating = [name for name, value in state.items() if value.is_floating_point()]
    own, new = ([get_local(tensors[name]) for name in floating] for tensors in (average, state))
    torch._foreach_lerp_(own, new, share)
    for name in state.keys() - floating:
        average[name].copy_(state[name])
