"""The recipe of a trained model: the settings of its stage and of all before it, the preset, and what really ran.

Settings come from the model's manifest and from dvc.lock, not from a params.yaml that may have been edited since.
"""

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

from tuwen.core.errors import UserError, hide_credentials
from tuwen.core.presets import PRESETS, compose_preset, get_values
from tuwen.data.formats import manifest
from tuwen.data.formats.json_file import read_json
from tuwen.tracking.records import flatten
from tuwen.tracking.revision import read_hashes, read_lock

ASKED = ".fit.precision"  # what a machine was asked for; training.json has what it did, as ran.precision
MOST_DIFFERENCES, MOST_CHARS = 2, 32  # in a run's name


def make_recipe(settings: Mapping[str, Any], paths: Iterable[Path]) -> dict[str, str]:
    """Return name with dots -> value: `settings`, those of the stages that made `paths`, and `preset`."""
    recipe = _read_stages(paths) | dict(flatten(settings))
    recipe = {name: value for name, value in recipe.items() if not name.endswith(ASKED)}
    preset, _ = find_preset(recipe)
    return {"preset": preset, **recipe} if preset else recipe


def read_recipe(model: Path, paths: Iterable[Path] | None = None) -> dict[str, str]:
    """Return the recipe of a finished model; paths: what it was made from, by dvc.lock where they are None.

    The entries `ran.…` are device, precision, processes and version of torch, as training.json has them.
    """
    settings = read_json(model / manifest.MANIFEST)["params"]
    ran = read_json(model / "training.json").get("ran", {})
    return make_recipe(settings, [model] if paths is None else paths) | dict(flatten({"ran": ran}))


def label_training(model: Path, recipe: Mapping[str, str]) -> str:
    """Return the name of a training before its id: preset, model, and what differs from the preset."""
    preset, differences = find_preset(recipe)
    shown = [f"{name}={hide_credentials(value)[:MOST_CHARS]}" for name, value in differences.items()]
    more = [f"and {len(shown) - MOST_DIFFERENCES} more"] if len(shown) > MOST_DIFFERENCES else []
    return " ".join(filter(None, [preset, model.name, *shown[:MOST_DIFFERENCES], *more]))


def find_preset(recipe: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Return the nearest preset of presets/, "" where there is none, and the settings that differ from it.

    By its settings and not by its folder: a queued experiment of DVC runs in a folder of another name. Of equally
    near ones it is the one that extends the fewest others, and not an overlay that changes what the recipe lacks.
    """
    presets = []
    for path in PRESETS.glob("*.yaml"):
        with contextlib.suppress(UserError):  # a broken preset ends its own run, not this one
            presets.append(compose_preset(path.stem))
    nearest: tuple[str, dict[str, str]] | None = None
    for preset in sorted(presets, key=lambda one: (len(one.chain), len(one.path.stem), one.path.stem)):
        values = dict(flatten(get_values(preset)))
        groups = {key.partition(".")[0] for key in values}
        differences = {
            key: value
            for key, value in recipe.items()
            if key.partition(".")[0] in groups and not _is_equal(value, values.get(key, str(None)))
        }
        if nearest is None or len(differences) < len(nearest[1]):
            nearest = preset.path.stem, differences
    return nearest or ("", {})


def _is_equal(value: str, other: str) -> bool:
    try:
        return value == other or float(value) == float(other)  # 10 in a preset is 10.0 in the settings
    except ValueError:
        return False


def _read_stages(paths: Iterable[Path]) -> dict[str, str]:
    """Return the params that dvc.lock records of the stages that made `paths`, and of all before them."""
    stages, recipe = read_lock(), dict[str, str]()
    pending = [str(path) for path in paths]
    while pending:
        path = pending.pop()
        for name in [name for name, stage in stages.items() if _makes(stage, path)]:
            stage = stages.pop(name)
            pending += read_hashes(stage, "deps")
            recipe |= dict(flatten(stage.get("params", {}).get("params.yaml", {})))
    return recipe


def _makes(stage: Mapping[str, Any], path: str) -> bool:
    outs = [PurePath(out) for out in read_hashes(stage, "outs")]
    return any(out.is_relative_to(path) or PurePath(path).is_relative_to(out) for out in outs)
