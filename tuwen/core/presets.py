"""Presets: overlays in presets/ that compose to a whole params.yaml.

`extends: NAME` makes a preset an overlay of presets/NAME.yaml, which holds only what differs; without it, a preset
is whole. From the base to the overlay:

- a mapping is merged key by key; anything else (a number, a text, a list, null) replaces what the base has;
- where a mapping's `kind` changes, its keys are others, so it replaces the base's mapping;
- so do `corpus` and `baseline.weights`, whose keys are names of the user's choice: `corpus: {}` means no source.
"""

import difflib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from tuwen.core.errors import UserError
from tuwen.core.params.root import Params, check_params, read_settings

PRESETS = Path("presets")
EXTENDS = "extends"
REPLACED = (("corpus",), ("baseline", "weights"))  # mappings whose keys are names of the user's choice


class Setting(NamedTuple):
    """A value (a scalar, a list or an empty mapping) and the preset that sets it."""

    value: Any
    preset: str


Group: TypeAlias = "dict[str, Group | Setting]"


class ComposedPreset(NamedTuple):
    """A whole preset."""

    path: Path
    chain: tuple[str, ...]  # its name, what it extends, …, the whole one
    settings: Group


def compose_preset(name: str, folder: Path = PRESETS) -> ComposedPreset:
    """Return the whole of the preset `name`: the bases that it extends, then itself on top.

    Raises UserError for a name that `folder` lacks, a circle of `extends`, a file that is no mapping, and a key
    that no base has. A group with a `kind` may take keys that its base leaves out, as some are optional;
    check_preset refuses the unknown ones.
    """
    files = _read_chain(name, folder)
    *overlays, whole = files
    settings = _as_settings(files[whole], whole)
    assert isinstance(settings, dict)
    for preset in reversed(overlays):
        settings = _merge(settings, files[preset], folder / f"{preset}.yaml")
    return ComposedPreset(folder / f"{name}.yaml", tuple(files), settings)


def check_preset(preset: ComposedPreset) -> Params:
    """Return the preset as strict models. Raises UserError as load_params does for params.yaml."""
    bases = f" (extends {', '.join(preset.chain[1:])})" if preset.chain[1:] else ""
    return check_params(get_values(preset), f"{preset.path}{bases}")


def get_values(preset: ComposedPreset) -> dict[str, Any]:
    """Return the plain values, as a YAML reader would read the whole file."""
    return _plain(preset.settings)


def format_preset(preset: ComposedPreset) -> str:
    """Return the text of a params.yaml, in which a comment behind each value names the preset that sets it."""
    lines = list(_format(preset.settings))
    width = max(len(text) for text, _ in lines)
    body = [f"{text:<{width}}  # {origin}" if origin else text for text, origin in lines]
    names = ", which extends ".join([str(preset.path), *preset.chain[1:]])
    header = f"# Composed from {names}. Each comment names the preset that sets the value."
    return "\n".join([header, *body, ""])


def _read_chain(name: str, folder: Path) -> dict[str, dict[str, Any]]:
    """Return name -> content of the preset, of the one it extends, and so on to the whole one."""
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    there = f"{folder}/ has {', '.join(names) or 'none'}"
    if name not in names:
        raise UserError(f"{folder / name}.yaml: no such preset; {there}")
    files: dict[str, dict[str, Any]] = {}
    while True:
        path = folder / f"{name}.yaml"
        values = read_settings(path)
        if not isinstance(values, dict) or not values:
            raise UserError(f"{path}: a preset is a mapping of groups such as `finetune:`, got {values!r}")
        files[name] = values
        if EXTENDS not in values:
            return files
        base = values.pop(EXTENDS)
        if base not in names:
            raise UserError(f"{path}: {EXTENDS} must be the name of a preset, got {base!r}; {there}")
        if base in files:
            circle = " → ".join([*files, base])
            raise UserError(f"{path}: {EXTENDS} goes in a circle: {circle}; remove it where the whole preset is")
        name = base


def _merge(base: Group, overlay: dict[str, Any], path: Path, place: tuple[str, ...] = ()) -> Group:
    """Return `base` with the values of `overlay` on top of it; overlay: what the file `path` has at `place`."""
    merged = dict(base)
    for key, value in overlay.items():
        here, before = (*place, str(key)), base.get(key)
        if before is None and "kind" not in base:
            raise UserError(f"{path}: {'.'.join(here)}: {_explain_unknown(here, base)}")
        if isinstance(before, dict) and isinstance(value, dict) and not _replaces(before, value, here):
            merged[key] = _merge(before, value, path, here)
        else:
            merged[key] = _as_settings(value, path.stem)
    return merged


def _replaces(base: Group, overlay: dict[str, Any], place: tuple[str, ...]) -> bool:
    """Tell whether `overlay` replaces `base` rather than being merged into it."""
    kind = base.get("kind")
    changes_kind = isinstance(kind, Setting) and overlay.get("kind", kind.value) != kind.value
    return place in REPLACED or changes_kind


def _explain_unknown(place: tuple[str, ...], base: Group) -> str:
    known = [str(key) for key in base]
    near = difflib.get_close_matches(place[-1], known, n=1)
    fix = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
    return f"no preset that it extends has this key; {fix}"


def _as_settings(value: Any, preset: str) -> "Group | Setting":
    """Return the same tree, in which every value is a Setting of `preset`."""
    if isinstance(value, dict) and value:
        return {key: _as_settings(part, preset) for key, part in value.items()}
    return Setting(value, preset)


def _plain(group: Group) -> dict[str, Any]:
    return {key: part.value if isinstance(part, Setting) else _plain(part) for key, part in group.items()}


def _format(group: Group, depth: int = 0) -> Iterator[tuple[str, str]]:
    """Yield (line of YAML, preset that sets its value); a mapping's own line has no preset."""
    for key, part in group.items():
        start = f"{'  ' * depth}{format_value(key)}:"
        if isinstance(part, Setting):
            yield f"{start} {format_value(part.value)}", part.preset
        else:
            yield start, ""
            yield from _format(part, depth + 1)


def format_value(value: Any) -> str:
    """Return a value as YAML 1.2 in one line."""
    from ruamel.yaml import YAML

    if isinstance(value, list) and any(isinstance(one, dict) for one in value):
        return json.dumps(value, ensure_ascii=False)  # DVC reads no plain https://… within braces
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.default_flow_style, yaml.width = True, sys.maxsize
    yaml.sort_base_mapping_type_on_output = False  # keys of a mapping in a list stay in their order
    text = io.StringIO()
    yaml.dump(value, text)
    return text.getvalue().removesuffix("...\n").rstrip("\n")
