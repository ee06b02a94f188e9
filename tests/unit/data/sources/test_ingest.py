"""Raw sets of a source: their tables and shards, also after a killed run, in two runs, and by the stages."""

import csv
import hashlib
import json
import re
import shutil
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter
from ruamel.yaml import YAML

from stages import corpus as corpus_stage
from stages import ingest as ingest_stage
from tests.support.checkout import ROOT
from tests.support.pair_sets import EMPTY_SET
from tuwen.core.params import Corpus, Source, TableSource, WebdatasetSource
from tuwen.core.presets import compose_preset, get_values
from tuwen.data.formats import pairs, shards
from tuwen.data.sources import ingest as ingesting
from tuwen.data.sources.ingest import ingest, ingest_corpus

CAT, DOG = b"\x89PNG a cat", b"\x89PNG a dog"


def make_source(root: Path, rows: Sequence[Sequence[str]]) -> TableSource:
    """Write a table with the columns path, id, zh, and two images."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "cat.png").write_bytes(CAT)
    (root / "dog.png").write_bytes(DOG)
    with open(root / "pairs.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["path", "id", "zh"], *rows])
    return TableSource(
        kind="table", root=str(root), file="pairs.csv", image="path", captions=["zh"], image_id="id"
    )


@pytest.fixture
def source(tmp_path: Path) -> TableSource:
    rows = [
        ["cat.png", "1.png", "一只猫, 在沙发上"],
        ["dog.png", "2.png", "草地上的狗"],
        ["none.png", "3.png", "什么都没有"],
        ["../out.png", "4.png", "在外面"],
        ["cat.png", "1.png", "橘猫"],
    ]
    return make_source(tmp_path / "mine", rows)


def files_of(folder: Path) -> dict[str, str]:
    """Return path -> sha256 of every file below `folder`."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_every_row_is_kept_and_pictures_that_cannot_be_had_have_no_bytes(tmp_path, source, capsys) -> None:
    ingest(source, tmp_path / "data/raw")
    labelled = pairs.read_pair_set(tmp_path / "data/raw/labelled")
    rows = labelled.images.to_pylist()
    assert [(row["image_id"], row["fault"]) for row in rows] == [
        ("1.png", None),
        ("2.png", None),
        ("3.png", "missing"),
        ("4.png", "outside_source"),
    ]
    for row, data in zip(rows, (CAT, DOG), strict=False):
        assert shards.read_member(tmp_path / "data", shards.Place.of(row)) == data
        assert row["sha256"] == hashlib.sha256(data).hexdigest()
        assert row["positive_id"] == row["image_id"]
    for row in rows[2:]:
        assert [row[name] for name in ("shard", "offset", "size", "sha256")] == [None] * 4
        assert row["file"] == "pairs.csv"
    assert [row["row"] for row in rows] == [None, None, 4, 5]
    assert labelled.texts["row"].to_pylist() == [2, 3, 4, 5, 6]
    assert set(labelled.pairs["label"].to_pylist()) == {1}
    log = capsys.readouterr().err
    assert "labelled: pairs 5, pictures 2, pictures missing 1, pictures outside_source 1, texts 5" in log


def test_sets_that_the_source_lacks_are_empty_and_every_set_has_its_manifest(tmp_path, source) -> None:
    ingest(source, tmp_path / "data/raw")
    for name in ("t2i", "i2t"):
        lacking = pairs.read_pair_set(tmp_path / "data/raw" / name)
        assert lacking == EMPTY_SET
        assert lacking.images.schema.equals(pairs.IMAGES)
    for name in pairs.RAW_SETS:
        folder = tmp_path / "data/raw" / name
        body = json.loads((folder / "manifest.json").read_text())
        assert (body["params"], body["inputs"]) == ({}, {})  # they decide a set by its files, or not at all
        assert set(body["files"]) == set(files_of(folder)) - {"manifest.json"}


def test_where_a_source_lies_and_what_lies_beside_it_change_no_byte(tmp_path, source) -> None:
    """DVC hashes the sets: a folder that was moved must not train anew."""
    ingest(source, tmp_path / "one/raw")
    moved = Path(shutil.copytree(source.root, tmp_path / "moved"))
    (moved / "备注.txt").write_text("只是备注", encoding="utf-8")
    ingest(source.model_copy(update={"root": str(moved)}), tmp_path / "two/raw")
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_two_runs_give_the_same_bytes_and_leave_nothing_of_a_killed_one(tmp_path, source) -> None:
    ingest(source, tmp_path / "one/raw")
    left = tmp_path / "two/raw/labelled/shards/000007.tar"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half a shard")
    ingest(source, tmp_path / "two/raw")
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    assert not left.exists()


def test_tables_grow_by_row_groups(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(ingesting, "GROUP_ROWS", 3)
    source = make_source(tmp_path / "mine", [["cat.png", "1", f"第{n}只猫"] for n in range(7)])
    ingest(source, tmp_path / "data/raw")
    texts = pq.ParquetFile(tmp_path / "data/raw/labelled/texts.parquet")
    assert [texts.metadata.row_group(n).num_rows for n in range(texts.num_row_groups)] == [3, 3, 1]
    monkeypatch.setattr(ingesting, "GROUP_CHARS", 8)  # two captions of four characters
    ingest(source, tmp_path / "data/raw")
    texts = pq.ParquetFile(tmp_path / "data/raw/labelled/texts.parquet")
    assert [texts.metadata.row_group(n).num_rows for n in range(texts.num_row_groups)] == [2, 2, 2, 1]
    assert texts.read()["caption"].to_pylist() == [f"第{n}只猫" for n in range(7)]


def test_members_of_a_shard_have_names_that_stay_in_their_folder(tmp_path) -> None:
    ids = ["../../etc/passwd", "/abs/x.png", "a\\..\\b.png", "c\0\n.png", "", "..", "猫" * 300 + ".png", "猫.png"]
    ingest(make_source(tmp_path / "mine", [["cat.png", name, "猫"] for name in ids]), tmp_path / "data/raw")
    folder = tmp_path / "data/raw/labelled"
    with tarfile.open(folder / "shards/000000.tar") as tar:
        names = tar.getnames()
    assert names == [
        "etc/passwd",
        "abs/x.png",
        "a/b.png",
        "c__.png",
        "_",
        "_",
        "猫" * 196 + ".png",
        "猫.png",
    ]
    assert pairs.read_pair_set(folder).images["image_id"].to_pylist() == [name or None for name in ids]


def test_an_empty_id_is_null_in_every_table(tmp_path) -> None:
    ingest(make_source(tmp_path / "mine", [["cat.png", "", "猫"]]), tmp_path / "data/raw")
    made = pairs.read_pair_set(tmp_path / "data/raw/labelled")
    assert [made.images[name].to_pylist() for name in ("image_id", "positive_id")] == [[None], [None]]
    assert made.pairs["image_id"].to_pylist() == [None]


def test_an_id_that_comes_twice_keeps_both_of_its_pictures(tmp_path) -> None:
    ingest(make_source(tmp_path / "mine", [["cat.png", "1", "猫"], ["dog.png", "1", "狗"]]), tmp_path / "data/raw")
    rows = pairs.read_pair_set(tmp_path / "data/raw/labelled").images.to_pylist()
    assert [row["image_id"] for row in rows] == ["1", "1"]
    assert [shards.read_member(tmp_path / "data", shards.Place.of(r)) for r in rows] == [CAT, DOG]


def test_a_corpus_source_is_gathered_into_a_folder_of_its_own(tmp_path, source) -> None:
    folder = tmp_path / "data/raw/corpus/mine"
    ingest_corpus(source, folder)
    made = pairs.read_pair_set(folder)
    assert made.images["shard"].to_pylist() == ["raw/corpus/mine/shards/000000.tar"] * 2 + [None] * 2
    assert pairs.read_shards(folder).num_rows == 0
    assert (folder / "manifest.json").is_file()


def test_listed_shards_stay_where_they_are(tmp_path) -> None:
    with shards.ShardWriter(tmp_path, "elsewhere") as writer:
        for name, data in (("1.png", CAT), ("1.txt", "猫".encode())):
            writer.add(name, data)
    tar = tmp_path / "elsewhere/000000.tar"
    digest = hashlib.sha256(tar.read_bytes()).hexdigest()
    listed = tmp_path / "shards.csv"
    listed.write_text(f"address,size,sha256,pairs\n{tar},{tar.stat().st_size},{digest},1\n")
    folder = tmp_path / "data/raw/corpus/big"
    ingest_corpus(WebdatasetSource(kind="webdataset", root=str(listed)), folder)
    assert pairs.read_pair_set(folder) == EMPTY_SET
    (row,) = pairs.read_shards(folder).to_pylist()
    assert (row["address"], row["sha256"], row["pairs"], row["source"]) == (str(tar), digest, 1, None)
    assert "shards.parquet" in json.loads((folder / "manifest.json").read_text())["files"]


def test_the_stages_read_params_yaml(tmp_path, source, monkeypatch, capsys) -> None:
    yaml = YAML(typ="safe", pure=True)
    values = get_values(compose_preset("smoke", ROOT / "presets"))
    values |= {"source": source.model_dump(), "corpus": {"mine": source.model_dump()}}
    yaml.dump(values, tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    ingest_stage.main()
    monkeypatch.setattr(sys, "argv", ["corpus", "mine"])
    corpus_stage.main()
    assert pairs.read_pair_set(Path("data/raw/labelled")).images.num_rows == 4
    assert pairs.read_pair_set(Path("data/raw/corpus/mine")).pairs.num_rows == 5
    monkeypatch.setattr(sys, "argv", ["corpus", "muge"])
    with pytest.raises(SystemExit):
        corpus_stage.main()
    assert "error: params.yaml: corpus has no source 'muge', it has ['mine']" in capsys.readouterr().err


def test_what_the_page_on_data_tells_to_write_into_params_yaml_is_valid() -> None:
    page = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    values = [
        YAML(typ="safe", pure=True).load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    ]
    kinds = [TypeAdapter(Source).validate_python(value["source"]).kind for value in values if "source" in value]
    corpora = [TypeAdapter(Corpus).validate_python(value["corpus"]) for value in values if "corpus" in value]
    kinds += [source.kind for corpus in corpora for source in corpus.values()]
    assert set(kinds) == set(re.findall(r"^## ([a-z_]+)$", page, re.MULTILINE))
