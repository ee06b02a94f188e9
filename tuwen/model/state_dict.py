"""Weights as files: read without running code from them, and copied into layers whole or not at all."""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tuwen.core.errors import UserError

State = dict[str, Tensor]  # what torch calls a state dict: name -> tensor
MAX_TENSORS_LISTED = 6  # of each kind of fault in a message; a wrong model has hundreds


def read_state(path: Path) -> State:
    """Return the tensors of a safetensors file, or of a `.pt` or `.bin` of tensors alone; floats as float32.

    Of a training checkpoint this is its `state_dict`; the prefix `module.` of a model that was trained in parallel
    is removed. Raises UserError where the file is missing, broken, or holds anything but tensors and plain values.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
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
    return _select_tensors(path, content)


def _select_tensors(path: Path, content: object) -> State:
    inner = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(inner, Mapping) or not inner or not all(isinstance(v, Tensor) for v in inner.values()):
        raise UserError(f"{path}: expected names with tensors, or such under `state_dict`, got something else")
    parallel = all(name.startswith("module.") for name in inner)
    plain = {name.removeprefix("module.") if parallel else name: tensor for name, tensor in inner.items()}
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in plain.items()}


def fill_layers(layers: nn.Module, state: State, path: Path) -> None:
    """Copy `state`, the tensors of the file `path`, into `layers`.

    Raises UserError that lists every kind of misfit, before a single tensor is copied: a half-loaded model never
    trains.
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
        raise UserError(_describe_misfit(path, faults))
    layers.load_state_dict(state)


def _describe_misfit(path: Path, faults: Mapping[str, list[str]]) -> str:
    """Return the message that says which tensors of `path` do not fit; faults: kind -> names."""
    lists = "; ".join(_list_names(kind, names) for kind, names in faults.items() if names)
    return f"{path}: these weights do not fit the model, and nothing was loaded: {lists}"


def _list_names(kind: str, names: list[str]) -> str:
    more = f", and {len(names) - MAX_TENSORS_LISTED} more" if len(names) > MAX_TENSORS_LISTED else ""
    return f"{len(names)} {kind} ({', '.join(names[:MAX_TENSORS_LISTED])}{more})"


class Counterpart(NamedTuple):
    """What one of our tensors is in another form: the tensors of these names stacked, or one transposed."""

    names: tuple[str, ...]
    transposed: bool = False


def convert_to_ours(state: State, counterparts: Mapping[str, Counterpart], path: Path, unused: str) -> State:
    """Return the tensors of another form, read from `path`, under our names.

    counterparts: our name -> its counterpart. unused: a pattern of names that may be there and are not needed.
    Raises UserError that lists what is missing or unexpected, by the names of the file.
    """
    wanted = {name for counterpart in counterparts.values() for name in counterpart.names}
    missing = [name for counterpart in counterparts.values() for name in counterpart.names if name not in state]
    unexpected = [name for name in state if name not in wanted and not re.fullmatch(unused, name)]
    unequal = [
        f"{name}: {tuple(state[name].shape)}"
        for counterpart in counterparts.values()
        if len({tuple(state[name].shape) for name in counterpart.names if name in state}) > 1
        for name in counterpart.names
    ]
    if missing or unexpected or unequal:
        faults = {"missing": missing, "unexpected": unexpected, "that should have one shape": unequal}
        raise UserError(_describe_misfit(path, faults))
    return {ours: _stack(state, counterpart) for ours, counterpart in counterparts.items()}


def _stack(state: State, counterpart: Counterpart) -> Tensor:
    parts = [state[name] for name in counterpart.names]
    whole = parts[0] if len(parts) == 1 else torch.cat(parts)
    return whole.T.contiguous() if counterpart.transposed else whole


def convert_to_theirs(state: State, counterparts: Mapping[str, Counterpart]) -> State:
    """Undo `convert_to_ours`, bit for bit."""
    theirs: State = {}
    for ours, counterpart in counterparts.items():
        whole = state[ours].T if counterpart.transposed else state[ours]
        parts = whole.chunk(len(counterpart.names)) if len(counterpart.names) > 1 else [whole]
        theirs |= {name: part.contiguous().clone() for name, part in zip(counterpart.names, parts, strict=True)}
    return theirs
