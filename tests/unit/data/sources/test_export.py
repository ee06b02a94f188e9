"""Sets that are written for other programs are read back by the two readers as they were."""

import csv
import tarfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tuwen.core.errors import UserError
from tuwen.core.params import ChineseClipSource, WebdatasetSource
from tuwen.data import sources
from tuwen.data.formats import pairs, shards
from tuwen.data.sources import webdataset
from tuwen.data.sources.export import export_sets
from tuwen.data.sources.records import ImageRecord, PairRecord, Record, TextRecord

PANDA, STREET, MASK = "一只大熊猫坐在竹林里吃竹子", "雨后的街道\n行人撑着伞", "\ufeff“<人名>”和他的猫"
PICTURES = {
    "panda.jpg": b"\xff\xd8panda",
    "街道.png": b"\x89PNG street",
    "cat.gif": b"GIF89a cat",
    "odd": b"?" * 600,
}
TEXTS = {"t1": PANDA, "t2": STREET, "t3": MASK, "t4": PANDA, "t5": ""}
TRUE = [("panda.jpg", "t1"), ("panda.jpg", "t2"), ("街道.png", "t2"), ("cat.gif", "t3"), ("panda.jpg", "t4")]


def write_set(
    folder: Path, pictures: dict[str, bytes | None], texts: dict[str, str], linked: list[tuple[Any, ...]]
) -> Path:
    """Write a set of the pipeline to `folder`; linked: image_id, text_id, and the label where there is one."""
    images = []
    with shards.ShardWriter(folder.parents[1], f"{folder.parent.name}/{folder.name}/shards") as writer:
        for image_id, data in pictures.items():
            place = {} if data is None else writer.add(f"{len(images)}.bin", data)._asdict()
            images.append({"image_id": image_id, "positive_id": image_id, **place})
    captions = [{"text_id": text_id, "caption": caption} for text_id, caption in texts.items()]
    rows = [
        {"pair_id": str(n), **dict(zip(("image_id", "text_id", "label"), v, strict=False))}
        for n, v in enumerate(linked)
    ]
    tables = [
        pa.Table.from_pylist(table, schema)
        for table, schema in ((images, pairs.IMAGES), (captions, pairs.TEXTS), (rows, pairs.PAIRS))
    ]
    pairs.write_pair_set(folder, pairs.PairSet(*tables))
    return folder


def train(root: Path) -> Path:
    return write_set(root / "data/clean/train", PICTURES, TEXTS, TRUE)


def read(form: str, out: Path) -> dict[str, list[Record]]:
    source = (  # random characters are no text of which the encoding could be told
        ChineseClipSource(kind="chinese_clip", root=str(out), encoding="utf-8")
        if form == "chinese_clip"
        else WebdatasetSource(kind="webdataset", root=str(out), encoding="utf-8")
    )
    return {name: list(records) for name, records in sources.read_source(source).items()}


def contents(records: list[Record]) -> tuple[list[bytes | None], Counter[str], Counter[tuple[bytes | None, str]]]:
    """Return the images, the captions, and the pairs of both."""
    pictures = {r.image_id: r.data for r in records if isinstance(r, ImageRecord)}
    texts = {r.text_id: r.caption for r in records if isinstance(r, TextRecord)}
    linked = Counter((pictures[r.image_id], texts[r.text_id]) for r in records if isinstance(r, PairRecord))
    return list(pictures.values()), Counter(texts.values()), linked


FORMATS = pytest.mark.parametrize("form", ["chinese_clip", "webdataset"])


@FORMATS
def test_pictures_captions_and_pairs_come_back(tmp_path: Path, form: str) -> None:
    export_sets(form, [train(tmp_path)], tmp_path / "out")
    pictures, captions, linked = contents(read(form, tmp_path / "out")["labelled"])
    assert pictures == list(PICTURES.values())
    assert linked == Counter((PICTURES[image], TEXTS[text]) for image, text in TRUE)
    if form == "chinese_clip":
        assert captions == Counter(TEXTS.values())


@FORMATS
def test_what_cannot_be_written_is_counted(tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_set(
        tmp_path / "data/raw/labelled",
        {"gone.jpg": None, "panda.jpg": b"\xff\xd8", "bare.jpg": b"\xff\xd8\xff"},
        {"t1": PANDA, "t2": STREET, "t3": MASK},
        [
            ("gone.jpg", "t1"),
            ("panda.jpg", "t2", 1),
            ("panda.jpg", "t1", 0),
            ("nowhere.jpg", "t2"),
            ("bare.jpg", "t9"),
        ],
    )
    export_sets(form, [folder], tmp_path / "out")
    pictures, _, linked = contents(read(form, tmp_path / "out")["labelled"])
    assert pictures == [b"\xff\xd8", b"\xff\xd8\xff"]
    assert linked == Counter([(b"\xff\xd8", STREET)])
    left_out = "1 pictures without bytes, 1 pairs with label 0, 3 pairs without picture or text"
    left_out += ", 2 texts without a picture" if form == "webdataset" else ""
    assert f"{folder}: 1 pairs written, left out: {left_out}\n" in capsys.readouterr().err


def test_chinese_clip_gets_numbers_for_ids_over_all_splits(tmp_path: Path) -> None:
    one = write_set(tmp_path / "data/clean/test", {"b": b"2"}, {"t1": STREET}, [("b", "t1")])
    task = write_set(tmp_path / "data/clean/t2i", {"c": b"3"}, {"t1": PANDA}, [])
    export_sets("chinese_clip", [train(tmp_path), one, task], tmp_path / "out")
    assert (tmp_path / "out/test_imgs.tsv").read_text() == "5\tMg==\n"
    line = (tmp_path / "out/test_texts.jsonl").read_text(encoding="utf-8")
    assert line == '{"text_id": 6, "text": "雨后的街道\\n行人撑着伞", "image_ids": [5]}\n'
    with open(tmp_path / "out/ids.csv", encoding="utf-8", newline="") as file:
        known = {(row["split"], row["item"], row["number"]): row["id"] for row in csv.DictReader(file)}
    assert (known["train", "image", "2"], known["test", "text", "6"]) == ("街道.png", "t1")
    back = read("chinese_clip", tmp_path / "out")
    assert [p.split for p in back["labelled"] if isinstance(p, ImageRecord)] == ["test", *["train"] * 4]
    assert contents(back["t2i"])[0] == [b"3"]


def test_a_task_with_pairs_is_written_as_the_test_split(tmp_path: Path) -> None:
    answered = write_set(tmp_path / "data/clean/t2i", {"a": b"1", "b": b"2"}, {"t1": STREET}, [("b", "t1")])
    export_sets("chinese_clip", [train(tmp_path), answered], tmp_path / "out")
    back = read("chinese_clip", tmp_path / "out")
    assert list(back) == ["labelled"]
    tested = [r.image_id for r in back["labelled"] if isinstance(r, ImageRecord) and r.split == "test"]
    assert tested == ["test/5", "test/6"]
    assert next(r.image_id for r in back["labelled"] if isinstance(r, PairRecord)) == "test/6"


def test_a_task_of_image_queries_has_no_form_in_chinese_clip(tmp_path: Path) -> None:
    task = write_set(tmp_path / "data/clean/i2t", {"a": b"1"}, {"t1": STREET}, [])
    with pytest.raises(UserError, match="i2t: chinese_clip has no form for a task whose queries are images"):
        export_sets("chinese_clip", [task], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_webdataset_has_the_names_that_other_programs_look_for(tmp_path: Path) -> None:
    export_sets("webdataset", [train(tmp_path)], tmp_path / "out")
    with tarfile.open(tmp_path / "out/train/000000.tar") as tar:
        names = defaultdict(list)
        for name in tar.getnames():
            names[name.partition(".")[0]].append(name.partition(".")[2])
        text = tar.extractfile("000000000.txt").read().decode()
    assert list(names.values()) == [
        ["jpg", "json", "txt"],
        ["png", "json", "txt"],
        ["gif", "json", "txt"],
        ["jpg"],
    ]
    assert text == PANDA


def test_the_list_of_the_shards_can_be_a_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path)
    monkeypatch.chdir(tmp_path)
    export_sets("webdataset", [Path("data/clean/train")], Path("out"), shard_bytes=1)
    source = WebdatasetSource(kind="webdataset", root="out/shards.csv")
    rows = webdataset.read_shard_list(source).to_pylist()
    assert [row["address"] for row in rows] == [f"out/train/{n:06d}.tar" for n in range(len(rows))]
    assert len(rows) > 2
    assert contents(read("webdataset", Path("out"))["labelled"])[0] != []


@FORMATS
def test_equal_sets_give_equal_bytes(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        export_sets(form, [train(Path())], Path("out"))
        written.append({p.as_posix(): p.read_bytes() for p in sorted(Path("out").rglob("*")) if p.is_file()})
    assert written[0] == written[1] != {}


@FORMATS
def test_an_empty_set_gives_empty_files(tmp_path: Path, form: str) -> None:
    export_sets(form, [write_set(tmp_path / "data/clean/t2i", {}, {}, [])], tmp_path / "out")
    assert [p.stat().st_size for p in (tmp_path / "out").glob("t2i_*")] == [0, 0] * (form == "chinese_clip")


def test_mistakes_are_named_before_anything_is_written(tmp_path: Path) -> None:
    folder = train(tmp_path)
    (tmp_path / "full/x").mkdir(parents=True)
    (tmp_path / "loose").mkdir()
    for form, sets, out, message in (
        ("parquet", [folder], "out", "no such format 'parquet'; expected chinese_clip or webdataset"),
        ("webdataset", [folder], "full", "full: exists and is not an empty folder"),
        ("webdataset", [folder, folder], "out", r"out: several sets would be written as \['train'\]"),
        ("webdataset", [tmp_path / "loose"], "out", "loose: no set of the pipeline; expected one such as"),
        ("webdataset", [folder.parent / "valid"], "out", r"images\.parquet: this table is missing"),
    ):
        with pytest.raises(UserError, match=message):
            export_sets(form, sets, tmp_path / out)
    assert not (tmp_path / "out").exists()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.binary(), st.lists(st.text())), min_size=1, max_size=4))
@FORMATS
def test_any_bytes_and_captions_come_back(
    form: str, tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[bytes, list[str]]]
) -> None:
    root = tmp_path_factory.mktemp("set")
    texts = {f"{n}-{k}": text for n, (_, found) in enumerate(drawn) for k, text in enumerate(found)}
    linked = [(text_id.partition("-")[0], text_id) for text_id in texts] or [("0", "all")]
    data = {str(n): picture + b"x" for n, (picture, _) in enumerate(drawn)}
    folder = write_set(root / "data/clean/valid", data, texts or {"all": ""}, linked)
    export_sets(form, [folder], root / "out")
    pictures, _, found = contents(read(form, root / "out")["labelled"])
    assert pictures == list(data.values())
    assert found == Counter((data[image], (texts or {"all": ""})[text]) for image, text in linked)
