"""What each training is made from: its inputs by name, and the params that decide it, as its manifest has them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuwen.data.formats.json_file import read_json
from tuwen.model.stored_model import is_adapter
from tuwen.training.selection import Choice

if TYPE_CHECKING:
    from tuwen.core.params import Params


def list_baseline_inputs(clean: Path) -> dict[str, Path]:
    """Return what the baseline is made from; test only so that none of its images is trained on."""
    return {name: clean / name for name in ("corpus", "train", "valid", "test")}


def list_baseline_settings(params: "Params") -> dict[str, Any]:
    """Return the params that decide the baseline; the revision of published weights is one of them."""
    groups = {"image": params.image, "text": params.text, "model": params.model, "baseline": params.baseline}
    return {name: group.model_dump() if group else None for name, group in groups.items()}


def list_finetune_inputs(clean: Path, augmented: Path, baseline: Path) -> dict[str, Path]:
    """Return what the fine-tuned model is made from, as `list_refit_inputs`, and valid, on which it is chosen."""
    return list_refit_inputs(clean, augmented, baseline, ["train"]) | {"valid": clean / "valid"}


def list_finetune_settings(params: "Params") -> dict[str, Any]:
    """Return the params that decide the fine-tuned model, given its inputs; the refit is no part of them.

    What stored views were made by shows in their bytes.
    """
    views = {"mode"} if params.augment.mode == "stored" else {"mode", "policy", "seed"}
    finetune = params.finetune.model_dump(exclude={"refit_all"})
    return {"finetune": finetune, "augment": params.augment.model_dump(include=views)}


def list_refit_inputs(clean: Path, augmented: Path, baseline: Path, splits: Sequence[str]) -> dict[str, Path]:
    """Return what the refitted model is made from: `augmented`, which names the sets that its views are of.

    Heads over vectors of another program see no views: they are made from the sets of `splits` themselves.
    """
    seen = {name: clean / name for name in splits} if is_adapter(baseline) else {"augmented": augmented}
    return seen | {"baseline": baseline}


def list_refit_settings(params: "Params", tuned: Path) -> dict[str, Any]:
    """Return the params that decide the refitted model, given its inputs, and the state chosen for `tuned`."""
    chosen = read_choice(tuned).describe()
    return list_finetune_settings(params) | {"refit": params.augment.splits, "selected": chosen}


def read_choice(tuned: Path) -> Choice:
    """Return the state that was chosen for the fine-tuned model in the folder `tuned`."""
    selected = read_json(tuned / "training.json")["selected"]
    return Choice(**selected | {"soup": tuple(selected.get("soup", ()))})
