import hashlib
from pathlib import Path

import huggingface_hub
import pytest

from tuwen.core.errors import UserError
from tuwen.data.formats.pinned import find_pinned

PLACE = "params.yaml: baseline.weights"
NAMES = ("model.safetensors", "pytorch_model.bin")
SHA256 = hashlib.sha256(b"weights").hexdigest()
COMMIT = "a" * 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pytorch_model.bin").write_bytes(b"weights")
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def test_local_weights_are_found_in_a_folder_or_by_their_path(folder: Path) -> None:
    weights = folder / "pytorch_model.bin"
    assert find_pinned(PLACE, str(folder), SHA256, NAMES, ["config.json"]) == weights
    assert find_pinned(PLACE, str(weights), SHA256, NAMES, []) == weights
    (folder / "model.safetensors").write_bytes(b"weights")
    assert find_pinned(PLACE, str(folder), SHA256, NAMES, []).name == "model.safetensors"


def test_other_bytes_than_the_pinned_ones_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=rf"pytorch_model\.bin: expected the sha256 {'0' * 64} .*, got {SHA256}; "):
        find_pinned(PLACE, str(folder), "0" * 64, NAMES, [])


@pytest.mark.parametrize("revision", ["main", "", "A" * 40, "a" * 41])
def test_a_revision_that_pins_nothing_is_refused(folder: Path, revision: str) -> None:
    with pytest.raises(UserError, match=rf"baseline\.weights: revision: expected the commit .*, got '{revision}'"):
        find_pinned(PLACE, str(folder), revision, NAMES, [])


def test_a_folder_without_weights_and_a_missing_folder_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: .* expected one of model\.safetensors, pytorch_model\.bin in it"):
        find_pinned(PLACE, str(tmp_path / "empty"), SHA256, NAMES, [])
    with pytest.raises(UserError, match=r"nowhere is not there, but the revision is the sha256 of a local file"):
        find_pinned(PLACE, str(tmp_path / "nowhere"), SHA256, NAMES, [])


def test_a_hub_is_searched_for_the_best_weights_it_has(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patterns = []

    def download(name: str, revision: str, allow_patterns: list[str]) -> str:
        assert (name, revision) == ("OFA-Sys/some-model", COMMIT)
        patterns.append(allow_patterns)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    weights = find_pinned(PLACE, "OFA-Sys/some-model", COMMIT, NAMES, ["config.json"])
    assert weights == folder / "pytorch_model.bin"
    assert patterns == [["config.json", "model.safetensors"], ["config.json", "pytorch_model.bin"]]


def test_a_hub_that_does_not_answer_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(name: str, revision: str, allow_patterns: list[str]) -> str:
        raise ConnectionError("no route to the hub\nand more lines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    message = rf"OFA-Sys/some-model at {COMMIT} cannot be fetched: no route to the hub; give a local path"
    with pytest.raises(UserError, match=message):
        find_pinned(PLACE, "OFA-Sys/some-model", COMMIT, NAMES, [])
