"""Weights as files: read without running code from them, and filled into layers whole or not at all."""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tuwen.core.errors import UserError

State = dict[str, Tensor]
SHOWN = 6  # names of each kind of fault in a message; a wrong model has hundreds


def read(path: Path) -> State:
    """The tensors of a safetensors file, or of a `.pt` or `.bin` that holds tensors alone; floats as float32.

    A training checkpoint gives its `state_dict`; the prefix `module.` of a model that was trained in parallel is
    taken off. Raises UserError where the file is missing, broken, or holds anything but tensors and plain values.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            found = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: missing; expected a file of weights (.safetensors, .pt or .bin)") from None
    except pickle.UnpicklingError as error:
        why = str(error).partition("\n")[0][:200]
        raise UserError(
            f"{path}: holds more than tensors, and loading it could run any program, so nothing of it was run "
            f"({why}); expected weights alone: have whoever wrote it save `model.state_dict()`, or use safetensors"
        ) from None
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        why = str(error).partition("\n")[0][:200]
        raise UserError(f"{path}: no readable weights ({why}); the file may be cut: fetch it again") from None
    return _tensors(path, found)


def _tensors(path: Path, found: object) -> State:
    inner = found.get("state_dict", found) if isinstance(found, Mapping) else None
    if not isinstance(inner, Mapping) or not inner or not all(isinstance(v, Tensor) for v in inner.values()):
        raise UserError(f"{path}: expected names with tensors, or such under `state_dict`, got something else")
    parallel = all(name.startswith("module.") for name in inner)
    plain = {name.removeprefix("module.") if parallel else name: tensor for name, tensor in inner.items()}
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in plain.items()}


def fill(layers: nn.Module, state: State, where: str) -> None:
    """Copy `state` into `layers`, float32 whatever it was stored in.

    where: what the message names. Raises UserError that lists every kind of misfit, before a single tensor is
    copied: a half-loaded model never trains.
    """
    wanted = {name: tensor.shape for name, tensor in layers.state_dict().items()}
    shapes = {name: tensor.shape for name, tensor in state.items()}
    wrong = [
        f"{name}: expected {tuple(wanted[name])}, got {tuple(shape)}"
        for name, shape in shapes.items()
        if name in wanted and shape != wanted[name]
    ]
    faults = {
        "missing": [name for name in wanted if name not in shapes],
        "unexpected": [name for name in shapes if name not in wanted],
        "of another shape": wrong,
    }
    if any(faults.values()):
        raise UserError(misfit(where, faults))
    layers.load_state_dict(state)


def misfit(where: str, faults: Mapping[str, list[str]]) -> str:
    """The message that says which tensors do not fit; faults: kind -> names."""
    said = "; ".join(_listed(kind, names) for kind, names in faults.items() if names)
    return f"{where}: these weights do not fit the model, and nothing was loaded: {said}"


def _listed(kind: str, names: list[str]) -> str:
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} {kind} ({', '.join(names[:SHOWN])}{more})"


class Link(NamedTuple):
    """Where a tensor of ours stands in another form: under these names, one on top of the other, or turned."""

    names: tuple[str, ...]
    turned: bool = False


def to_ours(state: State, links: Mapping[str, Link], where: str, spare: str) -> State:
    """Tensors under another form's names -> under ours.

    links: our name -> its link. spare: a pattern of names that may be there and are not needed. Raises UserError
    that lists what is missing or unexpected, by the names of the file.
    """
    wanted = {name for link in links.values() for name in link.names}
    missing = [name for link in links.values() for name in link.names if name not in state]
    unexpected = [name for name in state if name not in wanted and not re.fullmatch(spare, name)]
    unequal = [
        f"{name}: {tuple(state[name].shape)}"
        for link in links.values()
        if len({tuple(state[name].shape) for name in link.names if name in state}) > 1
        for name in link.names
    ]
    if missing or unexpected or unequal:
        faults = {"missing": missing, "unexpected": unexpected, "that should have one shape": unequal}
        raise UserError(misfit(where, faults))
    return {ours: _joined([state[name] for name in link.names], link.turned) for ours, link in links.items()}


def _joined(parts: list[Tensor], turned: bool) -> Tensor:
    whole = parts[0] if len(parts) == 1 else torch.cat(parts)
    return whole.T.contiguous() if turned else whole


def to_theirs(state: Mapping[str, Tensor], links: Mapping[str, Link]) -> State:
    """The way back from `to_ours`, bit for bit."""
    theirs: State = {}
    for ours, link in links.items():
        whole = state[ours].T if link.turned else state[ours]
        parts = whole.chunk(len(link.names)) if len(link.names) > 1 else [whole]
        theirs |= {name: part.contiguous().clone() for name, part in zip(link.names, parts, strict=True)}
    return theirs
