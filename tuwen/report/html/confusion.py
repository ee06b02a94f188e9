"""A confusion matrix as an SVG element: rows are the true classes, columns the predicted ones.

Colours are the page's own (`currentColor`), so the matrix fits a light or dark page and stands as a file. Drawn
without matplotlib, whose fonts know no Chinese characters; the same counts give the same bytes.
"""

from collections.abc import Sequence
from html import escape

LARGEST_PX, SMALLEST_PX, WHOLE_PX = 34, 4, 900  # a cell's side, and the matrix where cells can be made small
LABELLED_PX, COUNTED_PX = 11, 22  # cells below these sides bear no label, no count
FONT_PX = 11
DARKEST = 0.6  # opacity of a cell that holds its whole row; the count in it stays readable


def draw_confusion(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Return the matrix of counts [C, C], images by true and predicted class; empty where there is no class."""
    if not classes:
        return ""
    cell = max(SMALLEST_PX, min(LARGEST_PX, WHOLE_PX // len(classes)))
    margin = 8 + max(map(_measure_px, classes)) if cell >= LABELLED_PX else 4
    top, side = margin + FONT_PX, cell * len(classes)
    parts = [_draw_cell(margin, top, cell, classes, row, column, counts) for row, column in _list_filled(counts)]
    parts += [
        f'<rect x="{margin + n * cell}" y="{top + n * cell}" width="{cell}" height="{cell}" fill="none" '
        'stroke="currentColor" stroke-opacity="0.5"/>'
        for n in range(len(classes))
    ]
    if cell >= LABELLED_PX:
        parts += [_draw_labels(name, n, margin, top, cell) for n, name in enumerate(classes)]
    width, height = margin + side + 4, top + side + 2 * FONT_PX
    note = "rows: true class; columns: class said; darker: more of the row"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {max(width, 330)} {height}" '
        f'width="{max(width, 330)}" height="{height}" font-family="sans-serif" font-size="{FONT_PX}" '
        f'fill="currentColor" role="img" aria-label="confusion matrix of {len(classes)} classes">\n'
        + "\n".join(parts)
        + f'\n<text x="4" y="{height - 6}" fill-opacity="0.7">{note}</text>\n</svg>\n'
    )


def _list_filled(counts: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    return [(r, c) for r, row in enumerate(counts) for c, count in enumerate(row) if count]


def _draw_cell(
    left: int, top: int, cell: int, classes: Sequence[str], row: int, column: int, counts: Sequence[Sequence[int]]
) -> str:
    count = counts[row][column]
    x, y, opacity = left + column * cell, top + row * cell, DARKEST * count / sum(counts[row])
    title = escape(f"{classes[row]} → {classes[column]}: {count}")
    cell_svg = (
        f'<rect x="{x}" y="{y}" width="{cell}" height="{cell}" fill-opacity="{opacity:.3f}">'
        f"<title>{title}</title></rect>"
    )
    if cell >= COUNTED_PX:
        middle = f'x="{x + cell / 2:g}" y="{y + cell / 2 + FONT_PX / 3:.1f}" text-anchor="middle"'
        cell_svg += f'<text {middle} pointer-events="none">{count}</text>'
    return cell_svg


def _draw_labels(name: str, n: int, left: int, top: int, cell: int) -> str:
    middle = cell * n + cell / 2 + FONT_PX / 3
    x, y = left + middle, top - 5
    return (
        f'<text x="{left - 5}" y="{top + middle:.1f}" text-anchor="end">{escape(name)}</text>'
        f'<text x="{x:.1f}" y="{y}" transform="rotate(-90 {x:.1f} {y})">{escape(name)}</text>'
    )


def _measure_px(name: str) -> int:
    """Return the width in pixels, counting a Latin letter for less than a Chinese character."""
    return round(sum(0.6 if character.isascii() else 1.0 for character in name) * FONT_PX)
