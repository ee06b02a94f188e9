"""What is seen of a source's first pairs."""

from pathlib import Path

import pytest

from tests.support.own_files import write_csv, write_photos
from tuwen.data.inspection import measure_source as module
from tuwen.data.inspection.measure_source import count_tokens, measure_source

CAPTIONS = ("左边是红烧肉", "清蒸鲈鱼", "清蒸鲈鱼", "menu")


@pytest.fixture
def source(tmp_path: Path) -> dict[str, object]:
    write_photos(tmp_path / "p", 3)
    write_csv(tmp_path / "a.csv", ("file", "text"), [(f"{n}.jpg", text) for n, text in enumerate(CAPTIONS)])
    root = tmp_path.as_posix()
    return {"kind": "table", "root": root, "file": "a.csv", "folder": "p", "image": "file", "captions": ["text"]}


def test_sizes_lengths_and_faults_are_counted(source: dict[str, object]) -> None:
    seen = measure_source(source)
    assert (seen.images, seen.faulty, seen.captions, seen.whole) == (4, 1, 4, True)
    assert seen.short_px.tolist() == [48, 48, 48]
    assert seen.pixels.tolist() == [48 * 48] * 3
    assert seen.first_fault == "3.jpg: missing"
    assert [(one.encoding, one.records) for one in seen.readings] == [("utf-8", 4)]
    assert seen.tokens.tolist() == [20, 6, 6, 6]  # 左边是红烧肉 shares no character with the others: its bytes
    assert (seen.chinese, seen.side_words, seen.repeated) == (3, 1, 2)


def test_only_the_first_images_are_looked_at(source: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_IMAGES", 2)
    seen = measure_source(source)
    assert (seen.images, seen.captions, seen.whole) == (2, 2, False)


def test_tokens_are_those_of_a_fresh_model_that_has_not_seen_the_caption() -> None:
    captions = ("保温杯５００毫升", "保温杯750毫升", "保温杯 ＸＬ", "𰻞")
    assert count_tokens(captions).tolist() == [10, 10, 7, 6]  # ASCII is always known, 𰻞 has four bytes
