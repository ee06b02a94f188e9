"""What `augment` stores. A kill and workers: test_stored_views_resume.py; a cluster: test_executor.py."""

import csv
import hashlib
import io
import json
import tarfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from tests.support.pair_sets import EMPTY_SET
from tests.support.views import AUGMENT, POLICY, draw_image, read_contents, write_clean
from tuwen.core.params import Image as ImageParams
from tuwen.core.params import NoParaphrase, ParaphraseFile
from tuwen.data.augment.stored_views import augment
from tuwen.data.augment.views import VIEWS, read_paraphrases
from tuwen.data.formats import manifest, pairs, shards
from tuwen.data.formats.images import decode_image, resize_to_square

CAPTIONS = {
    "train": [f"草地上有{n}只大熊猫在吃竹子" for n in range(5)],
    "valid": ["一个红色的苹果放在桌子上", "两个孩子在海边放风筝"],
    "test": ["雨后的街道上停着一辆公交车"],
}
IMAGE = ImageParams(size_px=32)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A data root in a folder of its own; one thread of this process is the executor."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tuwen.data.augment.stored_views.make_executor", lambda: ThreadPoolExecutor(1))
    monkeypatch.setattr("tuwen.data.augment.stored_views.PAIRS_PER_SHARD", 2)
    write_clean(tmp_path / "data", CAPTIONS)
    return tmp_path / "data"


@pytest.fixture
def ready(tmp_path) -> ParaphraseFile:
    """A file with paraphrases of all captions but one."""
    with open(tmp_path / "ready.csv", "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["caption", "paraphrase"])
        rows.writerows(
            [caption, caption.replace("大熊猫", "黑白相间的熊猫").replace("孩子", "小朋友")]
            for caption in (*CAPTIONS["train"], *CAPTIONS["valid"])
        )
    digest = hashlib.sha256((tmp_path / "ready.csv").read_bytes()).hexdigest()
    return ParaphraseFile(kind="file", path=str(tmp_path / "ready.csv"), sha256=digest)


def read_views(data) -> list[dict]:
    return pairs.read_table(data / "augmented" / "views.parquet", VIEWS).to_pylist()


def test_every_pair_has_eight_views_in_shards_that_a_webdataset_reader_understands(data) -> None:
    augment(data / "clean", data / "augmented", AUGMENT, IMAGE)
    files = read_contents(data / "augmented")
    tars = [f"shards/{n:06d}.tar" for n in range(3)]
    assert list(files) == ["manifest.json", "paraphrases.parquet", *tars, "views.parquet"]
    rows = read_views(data)
    expected = [(f"ptrain{n}.{view}", f"ptrain{n}", view, f"train{n}") for n in range(5) for view in range(8)]
    assert [(row["view_id"], row["pair_id"], row["view"], row["positive_id"]) for row in rows] == expected
    assert {row["split"] for row in rows} == {"train"}
    assert {json.loads(row["recipe"])["draw"] for row in rows if row["view"]} == {
        f"0:{p}:{v}" for _, p, v, _ in expected if v
    }
    members = []
    for tar in tars:
        with tarfile.open(data / "augmented" / tar) as archive:
            members += [(info.name, archive.extractfile(info).read()) for info in archive]
    for row, (name, encoded), (text_name, caption) in zip(rows, members[::2], members[1::2], strict=True):
        assert (name, text_name) == (f"{row['view_id']}.jpg", f"{row['view_id']}.txt")
        assert caption.decode() == row["caption"]
        assert encoded == shards.read_member(data, shards.Place.of(row))
        with Image.open(io.BytesIO(encoded)) as image:
            assert (image.format, image.size, image.mode) == ("JPEG", (32, 32), "RGB")


def test_view_0_is_stored_as_the_square_image_with_all_its_colours(data) -> None:
    augment(data / "clean", data / "augmented", AUGMENT, IMAGE)
    row = read_views(data)[8]
    assert (row["view_id"], row["caption"], row["flipped"], row["reworded"]) == (
        *("ptrain1.0", CAPTIONS["train"][1], False, None),
    )
    encoded = shards.read_member(data, shards.Place.of(row))
    difference = np.asarray(decode_image(encoded), int) - resize_to_square(draw_image().rotate(7), 32)
    assert np.abs(difference).mean() < 4
    with Image.open(io.BytesIO(encoded)) as image:
        assert [(across, down) for _, across, down, _ in image.layer] == [(1, 1)] * 3  # 4:4:4


def test_the_views_of_other_splits_follow_in_shards_of_their_own(data) -> None:
    params = AUGMENT.model_copy(update={"splits": ["test", "valid", "train"], "views": 3})
    augment(data / "clean", data / "augmented", params, IMAGE)
    rows = read_views(data)
    assert [row["split"] for row in rows] == ["train"] * 15 + ["valid"] * 6 + ["test"] * 3
    assert Counter((row["split"], row["shard"][-6:-4]) for row in rows) == {
        **{("train", "00"): 6, ("train", "01"): 6, ("train", "02"): 3},
        **{("valid", "03"): 6, ("test", "04"): 3},
    }
    body = json.loads((data / "augmented/manifest.json").read_text())
    assert body["inputs"] == {split: manifest.hash_path(data / "clean" / split) for split in CAPTIONS}
    assert body["files"] == {
        name: hashlib.sha256(encoded).hexdigest()
        for name, encoded in read_contents(data / "augmented").items()
        if name != "manifest.json"
    }


def test_paraphrases_are_stored_and_taken_by_half_of_the_views_but_the_first(data, ready) -> None:
    params = AUGMENT.model_copy(update={"paraphrase": ready, "splits": ["train", "valid"], "views": 21})
    augment(data / "clean", data / "augmented", params, IMAGE)
    paraphrases = read_paraphrases(data / "augmented")
    assert paraphrases == {
        **{caption: caption.replace("大熊猫", "黑白相间的熊猫") for caption in CAPTIONS["train"]},
        "两个孩子在海边放风筝": "两个小朋友在海边放风筝",
    }
    assert list(paraphrases) == sorted(paraphrases)
    rows = read_views(data)
    captions = {f"p{split}{n}": caption for split, column in CAPTIONS.items() for n, caption in enumerate(column)}
    for row in rows:
        caption = captions[row["pair_id"]]
        assert row["caption"] == (caption if row["reworded"] is None else paraphrases[caption])
        assert row["reworded"] in (None, "file")
    reworded = [row for row in rows if row["reworded"]]
    assert all(row["view"] > 0 for row in reworded)
    assert 40 < len(reworded) < 80  # of 6 pairs x 20


def test_online_stores_paraphrases_and_no_view(data, ready) -> None:
    params = AUGMENT.model_copy(update={"paraphrase": ready, "mode": "online"})
    augment(data / "clean", data / "augmented", params, IMAGE)
    assert list(read_contents(data / "augmented")) == ["manifest.json", "paraphrases.parquet", "views.parquet"]
    assert read_views(data) == []
    assert len(read_paraphrases(data / "augmented")) == 5


def test_sets_without_pairs_and_captions_without_paraphrases_give_empty_tables(data) -> None:
    pairs.write_pair_set(data / "clean/train", EMPTY_SET)
    params = AUGMENT.model_copy(update={"paraphrase": NoParaphrase(kind="none")})
    augment(data / "clean", data / "augmented", params, IMAGE)
    assert read_views(data) == []
    assert read_paraphrases(data / "augmented") == {}


def test_older_files_of_the_folder_are_removed_and_no_work_is_left(data) -> None:
    augment(data / "clean", data / "augmented", AUGMENT, IMAGE)
    (data / "augmented/shards/000009.tar").write_bytes(b"of another run")
    fewer = AUGMENT.model_copy(update={"views": 2, "policy": POLICY.model_copy(update={"zoom": [1.0, 1.0]})})
    augment(data / "clean", data / "augmented", fewer, IMAGE)
    assert "shards/000009.tar" not in read_contents(data / "augmented")
    assert len(read_views(data)) == 10
    assert list((data.parent / ".cache/augment").iterdir()) == []
