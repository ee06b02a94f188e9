"""The registered model as a folder: by alias and by number, whole or not at all."""

import os
from pathlib import Path

import pytest

from tests.support import registry_project
from tuwen.core import params
from tuwen.core.errors import UserError
from tuwen.data.formats import manifest
from tuwen.tracking import published, registry

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # mlflow's, about sqlalchemy
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def test_the_champion_is_had_as_the_folder_that_was_registered(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    registry_project.build(tmp_path)
    assert published.get_champion() is None
    with pytest.raises(UserError, match=r"models:/tuwen@champion: no such model can be had"):
        published.find_published("models:/tuwen@champion")
    registry.register(Path("models/finetuned"), "bank", params.load_params().evaluate)
    found = published.find_published("models:/tuwen@champion")
    assert found == published.find_published("models:/tuwen/1")
    assert found == ("tuwen", "1", manifest.hash_path(Path("models/finetuned")))
    folder = published.fetch_published(found, tmp_path / "cache")
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        path.name for path in Path("models/finetuned").iterdir()
    )
    assert manifest.hash_path(folder) == found.digest
    before = folder.stat().st_ino
    assert published.fetch_published(found, tmp_path / "cache").stat().st_ino == before  # not downloaded again
    with pytest.raises(UserError, match=r"its files are [0-9a-f]{64}, not 0000"):
        published.fetch_published(found._replace(digest="0" * 64), tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [found.digest]
    assert folder.stat().st_mtime == 0  # it has not been in service

    published.set_champion(None)
    assert published.get_champion() is None
    published.set_champion("1")
    assert published.get_champion() == "1"
    for address in ("models:/tuwen", "models:tuwen@champion", "models:/tuwen/one"):
        with pytest.raises(UserError, match="is expected"):
            published.find_published(address)


def test_a_cache_keeps_what_is_in_service_and_what_was_before_it(tmp_path: Path) -> None:
    def fetch(name: str) -> Path:
        folder = tmp_path / (name * 64)
        folder.mkdir()
        (folder / "model.safetensors").touch()
        os.utime(folder, published.NEVER_SERVED)
        return folder

    def list_kept() -> set[str]:
        return {path.name[0] for path in tmp_path.iterdir()}

    first = fetch("a")
    published.remove_superseded(first)
    fetch("b")  # and refused
    published.remove_superseded(fetch("c"))
    assert list_kept() == {"a", "c"}
    published.remove_superseded(first)  # the way back
    (tmp_path / "work").mkdir()  # a download under way
    published.remove_superseded(fetch("d"))
    assert list_kept() == {"a", "d", "w"}
