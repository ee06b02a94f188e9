import pandas as pd

from tests.support.looks import draw_thumbnail
from tuwen.data.quality.duplicates.counterparts import (
    describe_rows,
    find_copies_elsewhere,
    find_leaked_into,
    find_nearest_held_out,
    find_originals,
)


def test_a_row_is_named_by_set_id_file_and_row_as_far_as_the_source_knows_them() -> None:
    rows = pd.DataFrame(
        {"pair_id": ["对1", "对2", "对3"], "file": ["表.csv", "图.png", None], "row": [3, None, 4]}
    )
    assert describe_rows("labelled", rows) == [
        "labelled 对1 (表.csv, row 3)",
        "labelled 对2 (图.png)",
        "labelled 对3 (row 4)",
    ]
    assert describe_rows("labelled", rows.assign(file=None, row=None)[:1]) == ["labelled 对1"]


def test_the_original_of_a_row_is_the_first_equal_one() -> None:
    keys = pd.DataFrame({"image": [7, 5, 7, 5, 7], "fits": [True, True, True, False, True]})
    assert find_originals(keys).tolist() == [0, 1, 0, 3, 0]


def test_a_leak_is_into_a_copy_or_else_into_the_first_image_of_its_group() -> None:
    rows = [
        ("甲", "g", 1, "train", "test"),
        ("乙", "g", 2, "train", "test"),
        ("丙", "g", 3, "test", None),
        ("丁", "g", 2, "test", None),
        ("戊", "h", 4, "test", None),
        ("己", "g", 2, "valid", "test"),
    ]
    images = pd.DataFrame(rows, columns=["image_id", "split_group", "copies", "split", "reaches"])
    assert find_leaked_into(images) == {0: 3, 1: 3, 5: 3}
    assert find_leaked_into(images.assign(reaches=None)) == {}


def test_a_copy_elsewhere_is_the_first_of_another_split() -> None:
    rows = [("乙", 1, "train"), ("甲", 1, "train"), ("丙", 1, "test"), ("丁", 2, "valid"), ("戊", 2, "train")]
    images = pd.DataFrame(rows, columns=["image_id", "copies", "dealt"])
    assert find_copies_elsewhere(images) == {0: 2, 1: 2, 2: 0, 3: 4, 4: 3}


def test_equal_bytes_come_before_near_images_and_what_is_neither_is_not_there() -> None:
    held_out = pd.DataFrame(
        [
            {"measured_sha256": "a", "blank": False, "thumbnail": draw_thumbnail(1)},
            {"measured_sha256": "b", "blank": False, "thumbnail": draw_thumbnail(2)},
        ],
        index=[40, 30],
    )
    images = pd.DataFrame(
        [
            {"measured_sha256": "b", "blank": False, "thumbnail": draw_thumbnail(1)},
            {"measured_sha256": "c", "blank": False, "thumbnail": draw_thumbnail(1, mirrored=True)},
            {"measured_sha256": "d", "blank": False, "thumbnail": draw_thumbnail(3)},
            {"measured_sha256": None, "blank": None, "thumbnail": None},
        ]
    )
    assert find_nearest_held_out(images, held_out) == {0: 30, 1: 40}
