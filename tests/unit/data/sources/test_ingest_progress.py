"""Progress of ingest: pairs so far, and how much of a known whole was read, for every kind of source."""

import base64
import csv
import io
import json
import re
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter

from tuwen.core import progress
from tuwen.core.params import Source
from tuwen.core.progress import parse_progress
from tuwen.data.sources.ingest import ingest

CAPTIONS = [f"第{n}号商品图，一只猫" for n in range(40)]


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_csv(path: Path, rows: Sequence[Sequence[str]], delimiter: str = ",") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)


def make_table(suffix: str) -> Callable[[Path], dict[str, Any]]:
    def make(root: Path) -> dict[str, Any]:
        rows = [{"path": f"{n}.jpg", "zh": [caption]} for n, caption in enumerate(CAPTIONS)]
        if suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), root / "a.parquet")
        elif suffix == ".jsonl":
            write_jsonl(root / "a.jsonl", rows)
        else:
            cells = [[f"{n}.jpg", caption] for n, caption in enumerate(CAPTIONS)]
            write_csv(root / f"a{suffix}", [["path", "zh"], *cells], "\t" if suffix == ".tsv" else ",")
        return {"kind": "table", "file": f"a{suffix}", "image": "path", "captions": ["zh"]}

    return make


def make_contest(root: Path) -> dict[str, Any]:
    rows = [[f"{n}.jpg", caption] for n, caption in enumerate(CAPTIONS)]
    write_csv(root / "一/ImageWordData.csv", [["image_id", "caption"], *rows])
    write_csv(root / "二/image_data.csv", [["image_id"], *([name] for name, _ in rows)])
    write_csv(root / "二/word_test.csv", [["text_id", "caption"], *rows])
    for folder in ("一", "二"):
        (root / folder / "ImageData").mkdir()
    return {"kind": "contest"}


def make_chinese_clip(root: Path) -> dict[str, Any]:
    for split in ("train", "valid"):
        lines = [f"{n}\t{base64.b64encode(b'%d' % n).decode()}\n" for n in range(40)]
        (root / f"{split}_imgs.tsv").write_text("".join(lines))
        texts = [{"text_id": n, "text": caption, "image_ids": [n]} for n, caption in enumerate(CAPTIONS)]
        write_jsonl(root / f"{split}_texts.jsonl", texts)
    return {"kind": "chinese_clip"}


def make_zero(root: Path) -> dict[str, Any]:
    for split in ("train", "val"):
        rows = [{"text": caption, "image_path": f"{n}.jpg"} for n, caption in enumerate(CAPTIONS)]
        write_jsonl(root / f"ICR/{split}/long_itr_{split}.json", rows)
    lines = [f"{n}\t{caption}\n" for n, caption in enumerate(CAPTIONS)]
    (root / "flickr30k_cna_test.txt").write_text("".join(lines), encoding="utf-8")
    return {"kind": "zero"}


def make_webdataset(root: Path) -> dict[str, Any]:
    for name, mode in (("a.tar", "w"), ("b.tar", "w:gz")):
        with tarfile.open(root / name, mode) as tar:  # type: ignore[call-overload]
            for n, caption in enumerate(CAPTIONS):
                for end, data in (("jpg", b"x" * 2000), ("txt", caption.encode())):
                    info = tarfile.TarInfo(f"{n}.{end}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return {"kind": "webdataset", "caption": "caption"}


SETS = {
    "csv": (make_table(".csv"), {"labelled": (40, "rows", 40)}),
    "tsv": (make_table(".tsv"), {"labelled": (40, "rows", 40)}),
    "jsonl": (make_table(".jsonl"), {"labelled": (40, "rows", 40)}),
    "parquet": (make_table(".parquet"), {"labelled": (40, "rows", 40)}),
    "contest": (make_contest, {"labelled": (40, "rows", 40), "t2i": (0, "bytes", ["word_test", "image_data"])}),
    "chinese_clip": (make_chinese_clip, {"labelled": (80, "bytes", [""])}),
    "zero": (make_zero, {"labelled": (120, "bytes", [""])}),
    "webdataset": (make_webdataset, {"labelled": (80, "bytes", [""])}),
}


@pytest.mark.parametrize("kind", SETS)
def test_ingest_tells_pairs_and_the_share_that_was_read(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_SECONDS", -1.0)
    root = tmp_path / "源"
    root.mkdir()
    make, expected = SETS[kind]
    source = TypeAdapter[Any](Source).validate_python(make(root) | {"root": str(root)})
    ingest(source, tmp_path / "data/raw")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ingest ")]
    for name, (pairs, unit, whole) in expected.items():
        if isinstance(whole, list):
            files = [path for path in root.rglob("*") if path.is_file()]
            whole = sum(path.stat().st_size for path in files if any(word in path.name for word in whole))
        found = [re.fullmatch(rf"ingest {name}, pairs (\d+), {unit}: (\d+)/(\d+)", line) for line in lines]
        steps = [tuple(map(int, match.groups())) for match in found if match]
        assert len(steps) >= 40
        assert {total for _, _, total in steps} == {whole}
        assert steps == sorted(steps)
        assert all(done <= whole for _, done, _ in steps)
        assert steps[-1] == (pairs, whole, whole)
        assert steps[len(steps) // 2][1] < whole
    assert all(parse_progress(line) for line in lines)
