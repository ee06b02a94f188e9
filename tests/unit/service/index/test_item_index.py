"""An index is opened whole or not at all, and answers for its own model alone."""

import json
import shutil
from pathlib import Path

import pytest

from tuwen.core.errors import UserError
from tuwen.service.index.item_index import ItemIndex


def test_an_item_is_found_by_its_id(built: Path) -> None:
    index = ItemIndex(built / "index")
    row = index.find_row("images", "bank/图03.png")
    assert row == 15
    item = index.read_row("images", row)
    assert (item["caption"], item["source"], item["split"]) == ("一个绿色的圆形", "labelled", "train")
    for side in ("images", "texts"):
        ids = index.tables[side]["id"].to_pylist()
        assert [index.find_row(side, one) for one in ids] == list(range(len(ids)))
    for unknown in ("../图03.png", "", "图", "图03.pn", "鿿", "\ud800"):
        assert index.find_row("images", unknown) is None


def test_filters_are_offered_by_what_there_is(built: Path) -> None:
    facets = ItemIndex(built / "index").facets
    assert facets["source"] == {"labelled": 24, "art": 12}
    assert facets["split"] == {"test": 12, "train": 12, "corpus": 12}
    assert facets["category"] == {}
    assert facets["width_px"] == [144, 144]
    assert facets["caption_chars"] == [7, 8]


def test_another_model_is_refused_by_its_digest(built: Path) -> None:
    index = ItemIndex(built / "index")
    index.require_model(built / "models/reranked")
    with pytest.raises(UserError, match=r"an index of another model: it names [0-9a-f]{64}, but .*finetuned is"):
        index.require_model(built / "models/finetuned")


def test_an_index_of_older_code_is_refused_in_words(built: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(built / "index", tmp_path / "index"))
    body = json.loads((folder / "manifest.json").read_text())
    del body["params"]["calibration"]
    (folder / "manifest.json").write_text(json.dumps(body))
    with pytest.raises(UserError, match="of older code, it lacks calibration"):
        ItemIndex(folder)


@pytest.mark.parametrize("name", ["images.npy", "texts.arrow", "manifest.json"])
def test_an_index_that_is_not_whole_is_refused(built: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(built / "index", tmp_path / "index"))
    with (folder / name).open("r+b") as file:
        file.truncate(100)
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        ItemIndex(folder)
    (folder / name).unlink()
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        ItemIndex(folder)
