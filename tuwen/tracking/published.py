"""The registered model as a folder: which version an address means, its files, and the champion set back."""

import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from tuwen.core.errors import UserError
from tuwen.data.formats import manifest
from tuwen.tracking import runs
from tuwen.tracking.registry import MODEL_NAME

CHAMPION = "champion"
KEPT_MODELS = 2  # of a cache: the one in service and the one before it, for the way back
NEVER_SERVED = (0.0, 0.0)  # access and change time of a folder, in seconds since 1970
ADDRESS = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")
DIGEST = re.compile("[0-9a-f]{64}")


class PublishedModel(NamedTuple):
    """A version of a registered model."""

    name: str
    version: str
    digest: str  # of its model folder


def find_published(address: str) -> PublishedModel:
    """Return the version that models:/NAME@ALIAS or models:/NAME/VERSION means now.

    Raises UserError where it is neither, where there is none, and where MLflow is out of reach.
    """
    found = ADDRESS.fullmatch(address)
    if not found:
        raise UserError(f"{address}: models:/{MODEL_NAME}@{CHAMPION} or models:/{MODEL_NAME}/3 is expected")
    try:
        client, _ = runs.connect()
        if found["alias"]:
            version = client.get_model_version_by_alias(found["name"], found["alias"])
        else:
            version = client.get_model_version(found["name"], found["version"])
    except runs.list_store_errors() as error:
        raise UserError(f"{address}: no such model can be had: {runs.explain(error)}") from None
    digest = version.tags.get("tuwen.model_sha256")
    if not digest:
        raise UserError(f"{address}: version {version.version} is no model of `tuwen track register`")
    return PublishedModel(found["name"], str(version.version), digest)


def fetch_published(model: PublishedModel, cache: Path) -> Path:
    """Return the folder of a version, downloaded into `cache` where it is not there yet, whole or not at all.

    Raises UserError where MLflow is out of reach, and where what it has is not the model that was registered.
    """
    from tuwen.tracking.served_model import fetch_model_folder

    kept = cache / model.digest
    if kept.is_dir() and manifest.hash_path(kept) == model.digest:
        return kept
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as work:
        try:
            folder = fetch_model_folder(model.name, model.version, Path(work))
        except runs.list_store_errors() as error:
            raise UserError(f"models:/{model.name}/{model.version}: {runs.explain(error)}") from None
        if (digest := manifest.hash_path(folder)) != model.digest:
            raise UserError(
                f"models:/{model.name}/{model.version}: its files are {digest}, not {model.digest} as they "
                "were registered; register the model anew: `tuwen track register`"
            )
        shutil.rmtree(kept, ignore_errors=True)
        os.utime(folder, NEVER_SERVED)
        folder.rename(kept)
    return kept


def remove_superseded(folder: Path) -> None:
    """Note that a fetched model goes into service, and keep of its cache only what did so last: KEPT_MODELS.

    The change time of a folder says when it did; one that was refused, the first to go, never did.
    """
    now = time.time_ns()
    os.utime(folder, ns=(now, now))
    fetched = [place for place in folder.parent.iterdir() if DIGEST.fullmatch(place.name)]
    for place in sorted(fetched, key=lambda place: place.stat().st_mtime, reverse=True)[KEPT_MODELS:]:
        shutil.rmtree(place, ignore_errors=True)


def get_champion() -> str | None:
    """Return the champion's version, None where there is none. Raises UserError as `find_published`."""
    try:
        aliases = _get_aliases(runs.connect()[0])
    except runs.list_store_errors() as error:
        raise UserError(f"TUWEN_TRACKING_URI: {runs.explain(error)}") from None
    return str(aliases[CHAMPION]) if CHAMPION in aliases else None


def set_champion(version: str | None) -> None:
    """Make a version the champion, or none. Raises UserError as `find_published`."""
    try:
        client, _ = runs.connect()
        if version is not None:
            client.set_registered_model_alias(MODEL_NAME, CHAMPION, version)
        elif CHAMPION in _get_aliases(client):
            client.delete_registered_model_alias(MODEL_NAME, CHAMPION)
    except runs.list_store_errors() as error:
        raise UserError(f"TUWEN_TRACKING_URI: {runs.explain(error)}") from None


def _get_aliases(client: Any) -> dict[str, Any]:
    models = client.search_registered_models(f"name = '{MODEL_NAME}'")
    return dict(models[0].aliases) if models else {}
