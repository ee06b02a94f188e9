import hashlib
import json
from pathlib import Path

import pytest

from tuwen.core.errors import UserError
from tuwen.data.formats import manifest


def make_folder(folder: Path, content: str = "甲") -> Path:
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text(content, encoding="utf-8")
    return folder


def test_a_manifest_changes_with_files_inputs_and_params_and_with_nothing_else(tmp_path: Path) -> None:
    source = tmp_path / "source.txt"
    source.write_text("一", encoding="utf-8")

    def write(name: str, content: str, params: dict[str, int]) -> str:
        return manifest.write_manifest(make_folder(tmp_path / name, content), {"source": source}, params)

    one = write("one", "甲", {"seed": 0})
    assert one == write("two", "甲", {"seed": 0})
    assert one != write("three", "乙", {"seed": 0})
    assert one != write("four", "甲", {"seed": 1})
    source.write_text("二", encoding="utf-8")
    assert one != write("five", "甲", {"seed": 0})
    assert manifest.hash_path(tmp_path / "one") == one


def test_a_manifest_lists_every_file_and_takes_the_hashes_that_it_is_given(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "out")
    (folder / "shards").mkdir()
    (folder / "shards/000000.tar").write_bytes(b"tar")
    manifest.write_manifest(folder, {"source": "0" * 64}, {"种子": 0}, {"shards/000000.tar": "f" * 64})
    body = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert body == {
        "files": {"a.txt": hashlib.sha256("甲".encode()).hexdigest(), "shards/000000.tar": "f" * 64},
        "inputs": {"source": "0" * 64},
        "params": {"种子": 0},
    }


def test_the_hash_of_a_folder_without_manifest_covers_names_and_bytes(tmp_path: Path) -> None:
    first = manifest.hash_path(make_folder(tmp_path / "one"))
    assert first == manifest.hash_path(make_folder(tmp_path / "two"))
    (tmp_path / "two/a.txt").rename(tmp_path / "two/b.txt")
    assert first != manifest.hash_path(tmp_path / "two")
    assert manifest.hash_path(tmp_path / "one/a.txt") == hashlib.sha256("甲".encode()).hexdigest()


def test_work_is_named_by_its_inputs_params_and_code(tmp_path: Path) -> None:
    inputs = {"clean": make_folder(tmp_path / "clean")}
    key = manifest.make_work_key(inputs, {"seed": 0}, ["data/formats/shards.py"])
    assert len(key) == 16
    assert key == manifest.make_work_key(inputs, {"seed": 0}, ["data/formats/shards.py"])
    assert key != manifest.make_work_key(inputs, {"seed": 1}, ["data/formats/shards.py"])
    assert key != manifest.make_work_key(inputs, {"seed": 0}, ["data/formats"])
    (tmp_path / "clean/a.txt").write_text("乙", encoding="utf-8")
    assert key != manifest.make_work_key(inputs, {"seed": 0}, ["data/formats/shards.py"])


def test_outs_of_other_inputs_are_refused(tmp_path: Path) -> None:
    model, out = make_folder(tmp_path / "model"), make_folder(tmp_path / "embeddings")
    manifest.write_manifest(out, {"model": model}, {})
    manifest.require_inputs(out, {"model": model})
    before = manifest.hash_path(model)
    (model / "a.txt").write_text("乙", encoding="utf-8")
    with pytest.raises(
        UserError, match=rf"made from another model: it names {before}, but .*model is [0-9a-f]{{64}}"
    ):
        manifest.require_inputs(out, {"model": model})
    with pytest.raises(UserError, match="made from another set: it names None"):
        manifest.require_inputs(out, {"set": model})


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_what_is_no_manifest_is_refused(tmp_path: Path, content: str) -> None:
    out = make_folder(tmp_path / "out")
    with pytest.raises(UserError, match=r"manifest\.json: missing, so it is unknown what these were made from"):
        manifest.require_inputs(out, {})
    (out / "manifest.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"manifest\.json: not a manifest"):
        manifest.require_inputs(out, {"model": out})
