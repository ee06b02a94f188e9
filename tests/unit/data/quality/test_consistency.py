import numpy as np
import pandas as pd
import pytest

from tuwen.data.formats.text import normalise
from tuwen.data.quality.consistency import (
    MIN_ROWS_FOR_DRIFT,
    NEIGHBOURS,
    find_contradictions,
    find_duplicates,
    measure_drift,
)

GARDEN = "春天的樱花开满了河的两岸"
HARBOUR = "渔船在傍晚停进港口排成行"
LATER = "河岸边的樱花已经谢了许多"


def describe(*rows: tuple[str, str] | tuple[str, str, bool]) -> pd.DataFrame:
    """Pairs of (image, caption) or (image, caption, whether it fits), as `find_contradictions` takes them."""
    whole = [(*row, True)[:3] for row in rows]
    frame = pd.DataFrame(whole, columns=["image", "caption", "fits"])
    caption_key = frame["caption"].map(normalise).factorize()[0]
    return frame.assign(image_key=frame["image"].factorize()[0], caption_key=caption_key)


def find_rows(name: str, frame: pd.DataFrame) -> list[int]:
    return np.flatnonzero(find_contradictions(frame)[name]).tolist()


def test_a_pair_that_stands_twice_is_flagged_the_second_time() -> None:
    frame = describe(
        ("山", GARDEN),
        ("海", GARDEN),
        ("山", GARDEN + " "),
        ("山", HARBOUR),
        ("山", GARDEN, False),
        ("海", GARDEN),
    )
    assert find_duplicates(frame).tolist() == [False, False, True, False, False, True]


def test_left_and_right_on_one_image_contradict() -> None:
    frame = describe(
        ("人", "左手举着气球"),
        ("人", "右手举着气球"),
        ("人", "举着气球"),
        ("狗", "左边有一只狗"),
        ("狗", "左右各有一只狗"),
        ("车", "右边停着车"),
        ("车", "左边停着车", False),
        ("猫", "左边的猫"),
        ("鸟", "右边的鸟"),
    )
    assert find_rows("opposite_sides", frame) == [0, 1]


def test_a_caption_that_both_fits_and_does_not_contradicts() -> None:
    frame = describe(
        ("山", GARDEN), ("海", GARDEN, False), ("山", GARDEN, False), ("山", HARBOUR, False), ("海", HARBOUR)
    )
    assert find_rows("opposite_labels", frame) == [0, 2]


@pytest.mark.parametrize(
    ("captions", "apart"),
    [
        ([GARDEN, HARBOUR], [0, 1]),
        ([GARDEN, LATER], []),
        ([GARDEN, LATER, HARBOUR], [0, 1, 2]),
        ([GARDEN, "渔船停进港口"], []),  # six characters: short captions often share none
        ([GARDEN, "a boat comes home in the evening"], []),  # no Chinese to compare
        ([HARBOUR + "的", GARDEN], []),
        ([GARDEN, "🚤🚤渔船在傍晚停进港口,排成行𠀀"], [0, 1]),
    ],
)
def test_captions_of_one_image_without_a_common_character_contradict(
    captions: list[str], apart: list[int]
) -> None:
    frame = describe(*[("图", caption) for caption in captions], ("另一张图", "完全不同的另外八个汉字呀"))
    assert find_rows("nothing_in_common", frame) == apart
    denied = describe(*[("图", caption, n == 0) for n, caption in enumerate(captions)])
    assert find_rows("nothing_in_common", denied) == []


def test_rare_characters_in_common_count_too() -> None:
    """More than 64 kinds of character, so that the 64 commonest alone do not decide."""
    rare = [chr(0x4E00 + 7 * n) for n in range(400)]
    frame = describe(
        *[(f"图{n}", "".join(rare[10 * n : 10 * n + 10])) for n in range(40)],
        *[(f"图{n}", "".join(rare[10 * n + 9 : 10 * n + 18])) for n in range(39)],
        ("图39", "".join(rare[:10])),
    )
    assert find_rows("nothing_in_common", frame) == [39, 79]


def test_of_very_many_captions_of_one_image_only_neighbours_are_compared() -> None:
    frame = describe(*[("空白图", GARDEN)] * NEIGHBOURS, ("空白图", HARBOUR), *[("空白图", GARDEN)] * 50_000)
    assert len(find_rows("nothing_in_common", frame)) == 2 * NEIGHBOURS + 1


def test_no_pairs_no_contradictions() -> None:
    frame = describe(("山", GARDEN))[:0]
    assert {name: flags.tolist() for name, flags in find_contradictions(frame).items()} == {
        "opposite_sides": [],
        "opposite_labels": [],
        "nothing_in_common": [],
    }
    assert find_duplicates(frame).tolist() == []


def make_frames(chars: list[int], aspects: list[float | None]) -> dict[str, pd.DataFrame]:
    texts = pd.DataFrame({"chars": chars, "latin_share": [0.1] * len(chars)})
    return {"images": pd.DataFrame({"aspect": aspects}), "texts": texts}


def test_drift_is_the_largest_gap_between_the_distributions() -> None:
    count = MIN_ROWS_FOR_DRIFT
    labelled = make_frames([10] * count, [1.0] * count)
    task = make_frames([10] * 75 + [40] * 25, [2.0] * (count - 1) + [None])
    assert measure_drift(labelled, task).to_dict("records") == [
        {"measure": "chars", "distance": 0.25},
        {"measure": "latin_share", "distance": 0.0},
    ]
    wide = make_frames([10] * 75 + [40] * 25, [2.0] * count)
    assert dict(measure_drift(labelled, wide).to_numpy())["aspect"] == 1.0
