import numpy as np
import pandas as pd

from tests.support.looks import draw_thumbnail
from tuwen.data.quality.duplicates.near_duplicates import find_near_images, number_near_clusters


def make_frame(*thumbnails: bytes | None) -> pd.DataFrame:
    return pd.DataFrame({"thumbnail": pd.Series(thumbnails, dtype=object), "blank": False})


def test_near_images_of_two_tables_are_found_in_either_direction() -> None:
    images = make_frame(*(draw_thumbnail(n) for n in range(40)))
    others = make_frame(*(draw_thumbnail(n, mirrored=n % 2 == 0, margin=0.05) for n in (*range(30, 50), 7)))
    expected = [n >= 30 or n == 7 for n in range(40)]
    assert find_near_images(images, others).tolist() == expected
    assert find_near_images(others, images).tolist() == [True] * 10 + [False] * 10 + [True]


def test_blank_and_unmeasured_images_are_near_to_none() -> None:
    frame = make_frame(draw_thumbnail(1), draw_thumbnail(1), draw_thumbnail(1), None, None)
    frame.loc[2, "blank"] = True
    numbers = number_near_clusters(frame).tolist()
    assert numbers[0] == numbers[1]
    assert len(set(numbers)) == 4
    assert find_near_images(frame, frame[:1]).tolist() == [True, True, False, False, False]
    assert not find_near_images(frame, frame[2:]).any()


def test_near_images_chain_and_the_order_of_rows_does_not_matter() -> None:
    steps = [draw_thumbnail(5, margin=margin) for margin in (0.18, 0.0, 0.09)]
    frame = make_frame(*steps, draw_thumbnail(6))
    assert find_near_images(frame[:1], frame[1:2]).tolist() == [False], "too far, without the one between"
    numbers = number_near_clusters(frame)
    assert numbers[0] == numbers[1] == numbers[2] != numbers[3]
    turned = number_near_clusters(frame[::-1])
    assert turned[0] == turned[1] == turned[2] != turned[3]


def test_many_copies_of_one_image_are_one_cluster_and_no_images_none() -> None:
    rows = make_frame(*[draw_thumbnail(3)] * 100_000)
    assert number_near_clusters(rows).nunique() == 1
    assert number_near_clusters(rows[:0]).tolist() == []
    assert find_near_images(rows[:2], rows[:0]).tolist() == [False, False]
    assert np.all(find_near_images(rows, rows[:1]))
