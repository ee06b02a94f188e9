"""What is taken for what: the confusion counts of a classification as a picture of few rows."""

from typing import NamedTuple

from tuwen.findings import ZeroShot

SHOWN = 24  # classes at most; of more, those that are most often taken for others
OTHER = "others"


class Cell(NamedTuple):
    """Pictures of the row's class that were taken for the column's."""

    pictures: int
    share: float  # of the row's pictures
    is_true: bool


class Confusion(NamedTuple):
    """The picture: a row for each true class, a column for each predicted one."""

    columns: list[str]  # the rows' classes, and `OTHER` where some classes are not shown
    rows: list[tuple[str, int, list[Cell]]]  # class, its pictures, its cells


def picture(found: ZeroShot) -> Confusion:
    """Without classes there are no rows."""
    counts = found.confusion
    wrong = {n: sum(row) - row[n] for n, row in enumerate(counts)}
    shown = sorted(sorted(wrong, key=lambda n: (-wrong[n], n))[:SHOWN])
    rows = []
    for n in shown:
        whole = sum(counts[n])
        cells = [Cell(counts[n][m], counts[n][m] / max(1, whole), n == m) for m in shown]
        if len(shown) < len(counts):
            rest = whole - sum(cell.pictures for cell in cells)
            cells.append(Cell(rest, rest / max(1, whole), False))
        rows.append((found.classes[n], whole, cells))
    columns = [found.classes[n] for n in shown]
    return Confusion([*columns, OTHER] if len(shown) < len(counts) else columns, rows)
