"""Published files: a local folder or file, pinned by its sha256, or a hub id, pinned by its commit."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from tuwen.core.errors import UserError
from tuwen.data.formats.impostors import refuse_impostor
from tuwen.data.formats.json_file import read_json_object
from tuwen.data.formats.manifest import hash_file

HUB_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # as the hub names them; the first that is there is read
SAFE_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")  # the second names the parts of the first
INDEX_ENDING = ".safetensors.index.json"
UNSAFE_ENDINGS = r"\.(bin|bin\.index\.json|pt|pth|ckpt|h5|msgpack)$"
REMEDY = (
    "give a local path and the sha256 of its weights file, or a hub id and a commit; HF_ENDPOINT names a mirror "
    "of the hub, HF_HUB_OFFLINE=1 uses what was fetched before"
)


def find_pinned(place: str, where: str, revision: str, weights: Sequence[str], files: Sequence[str]) -> Path:
    """Return the weights file, in a folder that holds `files` beside it as far as the origin has them.

    place: the param that names it. where: a folder, a file, or a hub id, which is fetched once. revision: 64 hex
    digits are the sha256 of the local weights file (of parts `hash_parts`), 40 the commit of a hub id. weights:
    names of weights files, the best first. Raises UserError when they cannot be had, or are not the pinned ones.
    """
    local = Path(where)
    if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", revision):
        raise UserError(
            f"{place}: revision: expected the commit of a hub id (40 hex digits) or the sha256 of a local weights "
            f"file (64), got {revision!r}"
        )
    if local.exists():
        path = local if local.is_file() else _first(place, local, weights)
        refuse_impostor(path, "readable weights")
        if (sha256 := hash_parts(path)) != revision:
            raise UserError(
                f"{path}: expected the sha256 {revision} that {place} names, got {sha256}; fetch the file again, "
                "or write its sha256 into params.yaml"
            )
        return path
    if len(revision) == 64:
        raise UserError(f"{place}: {where} is not there, but the revision is the sha256 of a local file; {REMEDY}")
    return _first(place, _fetch(place, where, revision, weights, files), weights)


def list_parts(path: Path) -> list[Path]:
    """Return the files of the weights: `path` alone, or those that it names where it is an index of parts.

    Raises UserError where it is a broken index, or one of its parts is missing.
    """
    if not path.name.endswith(INDEX_ENDING):
        return [path]
    names = read_json_object(path, "fetch the whole folder again").get("weight_map")
    if not isinstance(names, dict) or not all(
        isinstance(name, str) and "/" not in name for name in names.values()
    ):
        raise UserError(f"{path}: weight_map: expected tensors with the files beside it; fetch the folder again")
    parts = [path.parent / name for name in sorted(set(names.values()))]
    if missing := [part.name for part in parts if not part.is_file()]:
        raise UserError(
            f"{path}: names {', '.join(missing[:6])}, which are missing beside it; fetch the folder again"
        )
    return parts


def hash_parts(path: Path) -> str:
    """Return the sha256 of a file of weights; of an index that of what `sha256sum` prints of its parts."""
    parts = list_parts(path)
    if parts == [path]:
        return hash_file(path)
    return hash_listing(parts)


def hash_listing(paths: Sequence[Path]) -> str:
    """Return the sha256 of what `sha256sum` prints of files when it is run beside them."""
    lines = (f"{hash_file(path)}  {path.name}\n" for path in paths)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _first(place: str, folder: Path, weights: Sequence[str]) -> Path:
    for name in weights:
        if (folder / name).is_file():
            return folder / name
    names = sorted(path.name for path in folder.iterdir())
    if "adapter_config.json" in names:
        raise UserError(
            f"{folder}: {place}: holds an adapter (LoRA) and not the weights: merge it first (peft: "
            "`model.merge_and_unload().save_pretrained(…)`) and name that folder"
        )
    if unsafe := [name for name in names if re.search(UNSAFE_ENDINGS, name)] * (weights == SAFE_WEIGHTS):
        raise UserError(
            f"{folder}: {place}: the weights are in {unsafe[0]}, and this kind reads safetensors alone, which "
            "hold no program: save them with `save_pretrained`, or take a commit that has them"
        )
    if parts := [name for name in names if re.search(r"-\d+-of-\d+\.", name)]:
        raise UserError(
            f"{folder}: {place}: the weights are in {len(parts)} parts ({parts[0]}, …), expected one file: save "
            "them with `save_pretrained(…, max_shard_size='100GB')` and name that folder"
        )
    raise UserError(f"{folder}: {place} expected one of {', '.join(weights)} in it; {REMEDY}")


def _fetch(place: str, name: str, commit: str, weights: Sequence[str], files: Sequence[str]) -> Path:
    """Return the folder of the hub's files at `commit`; kept under HF_HOME, so it is fetched once."""
    from huggingface_hub import snapshot_download

    try:
        for weight in weights:  # one form of the weights is enough, and each can have gigabytes
            parts = ["model-*.safetensors"] if weight.endswith(INDEX_ENDING) else []
            folder = Path(snapshot_download(name, revision=commit, allow_patterns=[*files, weight, *parts]))
            if (folder / weight).exists():
                break
    except Exception as error:  # network, proxy, disk: each layer below has exceptions of its own
        reason = str(error).strip().partition("\n")[0][:300]
        raise UserError(f"{place}: {name} at {commit} cannot be fetched: {reason}; {REMEDY}") from None
    return folder
