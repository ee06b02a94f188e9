"""Weights as files: read without running code from them, and copied into layers whole or not at all."""

import math
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tuwen.core.errors import UserError
from tuwen.data.formats.impostors import refuse_impostor

State = dict[str, Tensor]  # what torch calls a state dict: name -> tensor
MAX_TENSORS_LISTED = 6  # of each kind of fault in a message; a wrong model has hundreds
MAX_HEADER_BYTES = 100 << 20  # of safetensors, by its format
HOLDERS = ("state_dict", "model_state_dict", "model", "module")  # keys of a checkpoint that hold the weights
PREFIXES = ("module.", "model.")  # before every name: of parallel training, of Lightning
# within names: of torch.compile, of FSDP, of activation checkpointing
WRAPPERS = re.compile(r"\b(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
ADAPTERS = re.compile(r"^base_model\.|\b(?:lora_\w+|base_layer|modules_to_save)\.")  # of the package peft


def read_state(path: Path) -> State:
    """Return the tensors of a safetensors file, or of a `.pt` or `.bin` of tensors alone; floats as float32.

    The content tells which it is, not the name. Of a training checkpoint only the model's part is returned (see
    HOLDERS), without the prefixes that a trainer puts before all names or a wrapper into some. Raises UserError
    where the file is missing, broken, an adapter, or holds anything but tensors and plain values.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        refuse_impostor(path, "readable weights")
        if _is_safetensors(path):
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: missing; expected a file of weights (.safetensors, .pt or .bin)") from None
    except UserError:
        raise
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


def _is_safetensors(path: Path) -> bool:
    """Return whether the file is in safetensors. Raises UserError where it, or the zip of a `.pt`, is cut."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(9)
        if head[8:] == b"{" and (length := int.from_bytes(head[:8], "little")) < MAX_HEADER_BYTES:
            header = file.read(length - 1)
            # the last tensor ends where the file does
            ends = [int(end) for end in re.findall(rb'"data_offsets":\[\d+,(\d+)\]', header)]
            if size < (whole := 8 + length + max(ends, default=0)):
                raise UserError(
                    f"{path}: no readable weights: the file is cut: {size:,} of {whole:,} bytes; fetch it again"
                )
            return True
    if not head.startswith((b"PK", b"\x80")):  # a zip, or a pickle as torch wrote before
        raise UserError(
            f"{path}: no readable weights: it begins with {head!r}; take safetensors, or what torch.save writes"
        )
    if head.startswith(b"PK") and not zipfile.is_zipfile(path):
        raise UserError(f"{path}: no readable weights: the file is cut: its end is missing; fetch it again")
    return False


def _select_tensors(path: Path, content: object) -> State:
    inner = content
    if isinstance(content, Mapping) and not all(isinstance(value, Tensor) for value in content.values()):
        inner = next((content[name] for name in HOLDERS if isinstance(content.get(name), Mapping)), content)
    if not isinstance(inner, Mapping) or not inner or not all(isinstance(v, Tensor) for v in inner.values()):
        got = f"{', '.join(map(str, list(inner)[:6]))}" if isinstance(inner, Mapping) else type(inner).__name__
        optimizer = ", which is the state of an optimizer" if got == "state, param_groups" else ""
        raise UserError(
            f"{path}: expected names with tensors, or such under one of {', '.join(HOLDERS)}, got something else "
            f"({got}{optimizer}); save `model.state_dict()`"
        )
    if adapters := [name for name in inner if ADAPTERS.search(name)]:
        raise UserError(
            f"{path}: {len(adapters)} tensors of an adapter (LoRA, as {adapters[0]}), no model: merge it "
            "first (peft: `model.merge_and_unload()`) and save the result"
        )
    plain = {WRAPPERS.sub("", name): tensor for name, tensor in inner.items()}
    while prefix := next((one for one in PREFIXES if all(name.startswith(one) for name in plain)), None):
        plain = {name.removeprefix(prefix): tensor for name, tensor in plain.items()}
    if len(plain) < len(inner):
        raise UserError(f"{path}: some tensors are there twice, with and without _orig_mod.; save the model again")
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in plain.items()}


def fill_layers(layers: nn.Module, state: State, path: Path) -> None:
    """Copy `state`, the tensors of the file `path`, into `layers`.

    Raises UserError that lists every kind of misfit, before a single tensor is copied: a half-loaded model never
    trains.
    """
    own = layers.state_dict()
    wanted = {name: tensor.shape for name, tensor in own.items()}
    shapes = {name: tensor.shape for name, tensor in state.items()}
    extremes = {name: _find_extremes(tensor) for name, tensor in state.items() if name in own}
    wrong = [
        f"{name}: expected {tuple(wanted[name])}, got {tuple(shape)}"
        for name, shape in shapes.items()
        if name in wanted and shape != wanted[name]
    ]
    faults = {
        "missing": [name for name in wanted if name not in shapes],
        "unexpected": [name for name in shapes if name not in wanted],
        "of another shape": wrong,
        "of whole numbers, as quantised weights have": [
            name
            for name, tensor in state.items()
            if name in own and own[name].is_floating_point() > tensor.is_floating_point()
        ],
        "of zeros alone, as a saving that failed leaves": [
            name
            for name, both in extremes.items()
            if state[name].ndim > 1 and both == (0, 0) and bool(own[name].any())
        ],
        "with NaN or infinite numbers, as a training that failed leaves": [
            name for name, both in extremes.items() if not all(map(math.isfinite, both))
        ],
    }
    refuse_misfit(path, faults)
    layers.load_state_dict(state)


def _find_extremes(tensor: Tensor) -> tuple[float, float]:
    """Return the least and the greatest number, NaN where one is among them; of no floats 0 or 1: is any not 0?"""
    if not (tensor.is_floating_point() and tensor.numel()):
        return (float(tensor.any()),) * 2
    # one pass without copies: `isfinite` alone took a third of the loading of a model
    least, greatest = tensor.aminmax()
    return float(least), float(greatest)


def is_named(name: str, pattern: str) -> bool:
    """Whether the whole name fits a pattern of names."""
    return re.fullmatch(pattern, name) is not None


def refuse_misfit(path: Path, faults: Mapping[str, list[str]]) -> None:
    """Raise UserError that lists the tensors of `path` that do not fit, if any; faults: kind -> names."""
    if any(faults.values()):
        raise UserError(_describe_misfit(path, faults))


def _describe_misfit(path: Path, faults: Mapping[str, list[str]]) -> str:
    """Return the message that says which tensors of `path` do not fit; faults: kind -> names."""
    lists = "; ".join(_list_names(kind, names) for kind, names in faults.items() if names)
    remedy = "take the weights that belong to this model, whole, in floats"
    return f"{path}: these weights do not fit the model, and nothing was loaded: {lists}; {remedy}"


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
    refuse_misfit(path, {"missing": missing, "unexpected": unexpected, "that should have one shape": unequal})
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
