"""Files that cannot be read: what they seem to be, and one way out."""

import re
from pathlib import Path

import pytest

from tuwen.data.inspection.explain_files import explain_files


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "nothing is in it"),
        (["1.JPG", "a/2.jpg"], "2 pictures among 2 files, and no captions; write a table"),
        (
            ["猫/1.jpg", "狗/2.jpg", "狗/3.jpg"],
            r"3 pictures in 2 folders \(狗, 猫 …\).*classify.*--folder inputs/x`",
        ),
        (
            ["1.jpg", "1.txt", "2.jpg"],
            r"1 of 2 pictures.*such as 1\.txt; pack them: .* --sort=name .*inputs/x-tar",
        ),
        (["1.jpg", "清单.txt"], r"清单\.txt is no table"),
        (["p/1.jpg", "表.xlsx"], r"表\.xlsx is a spreadsheet; save it as CSV"),
        (["p/1.jpg", "pairs.json"], r"pairs\.json is JSON; write it as \.jsonl"),
        (["photos.zip"], r"photos\.zip is an archive; unpack it"),
    ],
)
def test_each_has_its_own_way_out(names: list[str], said: str) -> None:
    place = Path("inputs/x")
    assert re.search(said, explain_files(place, [place / name for name in names]))
