from tuwen.confusion import OTHER, SHOWN, picture
from tuwen.findings import ZeroShot

TOP = {"top_1": 0.5, "top_5": 1.0}


def zero_shot(names, confusion):
    per_class = [
        {"class": name, "pictures": sum(row), "top_1": 0.5} for name, row in zip(names, confusion, strict=True)
    ]
    body = {"classes": names, "pictures": 9, "one_prompt": TOP, "ensemble": TOP, "per_class": per_class}
    return ZeroShot.model_validate(body | {"confusion": confusion})


def test_cells_are_shares_of_their_row():
    found = picture(zero_shot(["猫", "狗", "鱼"], [[3, 1, 0], [0, 2, 0], [0, 0, 0]]))
    assert found.columns == ["猫", "狗", "鱼"]
    assert [(name, pictures) for name, pictures, _ in found.rows] == [("猫", 4), ("狗", 2), ("鱼", 0)]
    assert [[cell.share for cell in cells] for *_, cells in found.rows] == [[0.75, 0.25, 0], [0, 1, 0], [0, 0, 0]]
    assert [cell.is_true for cell in found.rows[1][2]] == [False, True, False]


def test_of_many_classes_those_with_most_errors_are_shown_and_no_picture_is_lost():
    number = SHOWN + 6
    # class n has n % 4 pictures taken for the next class, and 5 that are recognised
    rows = [[5 if m == n else n % 4 * (m == (n + 1) % number) for m in range(number)] for n in range(number)]
    found = picture(zero_shot([f"类{n:02d}" for n in range(number)], rows))
    names = [name for name, *_ in found.rows]
    assert found.columns == [*names, OTHER]
    assert len(names) == SHOWN
    assert names == sorted(names)
    assert {f"类{n:02d}" for n in range(number) if n % 4} <= set(names)
    assert all(sum(cell.pictures for cell in cells) == pictures for _, pictures, cells in found.rows)


def test_without_classes_there_is_no_picture():
    assert picture(zero_shot([], [])) == ([], [])
