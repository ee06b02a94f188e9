"""Whether two thumbnails show one picture: mirrored, cut at its edges, bordered, in grey or in other colours.

A picture that is cut shows what a window of the whole one shows, and so does the whole one in its copy with a
border. Hence each is compared whole, and mirrored, with windows of the other that leave out each of MARGINS. A
window is CELLS x CELLS means. The two must rise and fall alike from cell to cell (a correlation); and unless both
have shades as photographs do, their cells must have the same brightness and colour too: drawings of one set of
icons differ in less than the copies of a photograph do. All that decides is counted in whole numbers, so
that any machine gives the same answer.

Why no index: copies of these kinds are too far from each other for one. Every pair is compared, but by a bound:
relief is turned to its main axes, and what is left over can add no more than the product of its lengths
(Cauchy-Schwarz), so that one pair in thousands is compared in full. The bound never loses a pair.
"""

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tuwen.data.formats.near_images.looks import THUMB_PX

Bytes = npt.NDArray[np.uint8]
Shortened = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]
NearPairs = tuple[Places, Places]

# Chosen by benchmarks/near_duplicates.py: the shares of each side that windows leave out; the correlation; the
# levels of 255 by which no cell of brightness or colour may differ, more of them the more is left out
MARGINS = tuple(step / 80 for step in range(9))
NEAR_RELIEF = 0.94
NEAR_LEVELS = {margin: 12 + 320 * margin for margin in MARGINS}
SHADES = (2, 12)  # levels between neighbouring pixels
MIN_SHADING = 0.18  # the share of such pixels that half of the photographs have, and no drawing in flat colours
# Half of them will do where the two rise and fall all but equally, as icons of one set hardly ever do
EQUAL_RELIEF, SOME_SHADING = 0.99, 0.09
GREY_SPAN = 4  # levels by which the colours of a grey picture differ from none
GRID = 12  # cells a side of a window; the outer ones, which an inexact margin touches, are left out
CELLS = GRID - 2
STEPS = 16  # of one level, in which the means of cells are counted
MIN_RELIEF = 24 * STEPS  # the length of all rises and falls, below which noise decides
SCALE = 1024  # the length of relief as it is compared
BOUND = NEAR_RELIEF - 1e-3  # less than it, by more than rounding can take away
AXES = 32  # main axes of relief, by which pairs are told apart at first
SAMPLE = 4096  # thumbnails that these are computed from
THUMBNAILS_AT_ONCE, WINDOWS_AT_ONCE = 1024, 1024  # compared: bounds the memory


class Windows(NamedTuple):
    """One window of each of N thumbnails."""

    relief: npt.NDArray[np.int16]  # rises and falls, of length SCALE, or 0 where there are hardly any [N, R]
    cells: Bytes  # brightness, blue and red [N, 3, CELLS, CELLS]
    shading: npt.NDArray[np.float64]  # how much of the thumbnail is in shades, as photographs are [N]
    grey: npt.NDArray[np.bool_]  # it has no colour


def collect_thumbnails(thumbnails: list[bytes]) -> Bytes:
    """Return the bytes of N `Look.thumbnail` as one array [N, B]."""
    size = THUMB_PX**2 * 3 // 2
    return np.frombuffer(b"".join(thumbnails), np.uint8).reshape(-1, size)


def find_near_thumbnails(one: Bytes, other: Bytes) -> Iterator[NearPairs]:
    """Yield (row of `one`, row of `other`) of every near pair, once or more; each as of `collect_thumbnails`."""
    yield from _find_whole_in_windows(one, other, MARGINS)
    for rows, other_rows in _find_whole_in_windows(other, one, MARGINS[1:]):
        yield other_rows, rows


def find_near_within(thumbnails: Bytes) -> Iterator[NearPairs]:
    """Yield the two rows of every near pair of one set [N, B], the first one first, once or more."""
    for rows, other_rows in _find_whole_in_windows(thumbnails, thumbnails, MARGINS):
        apart = rows != other_rows
        ends = np.sort(np.stack([rows[apart], other_rows[apart]]), axis=0)
        yield ends[0], ends[1]


class HeldOut:
    """Thumbnails to which no other may be near, asked about one by one: 5 kB of memory for each."""

    def __init__(self, thumbnails: Bytes) -> None:
        self._thumbnails = thumbnails
        self._whole = _add_mirrored(describe_windows(thumbnails, 0.0))
        self._axes = _find_axes(self._whole)
        self._short = _shorten(self._whole, self._axes)
        # of the windows this alone is kept: the few that come near are described once more
        self._cut = [_shorten(describe_windows(thumbnails, margin), self._axes) for margin in MARGINS]

    def __reduce__(self) -> tuple[type["HeldOut"], tuple[Bytes]]:
        return HeldOut, (self._thumbnails,)

    def is_near(self, thumbnail: bytes) -> bool:
        """Return whether one of them is near to this thumbnail, as `find_near_thumbnails` would say."""
        asked = collect_thumbnails([thumbnail])
        whole = _add_mirrored(describe_windows(asked, 0.0))
        short = _shorten(whole, self._axes)
        for margin, cut in zip(MARGINS, self._cut, strict=True):
            rows, found = np.nonzero(short @ cut.T > BOUND)
            windows = describe_windows(self._thumbnails[found], margin)
            own = describe_windows(asked, margin)
            others, _ = np.nonzero(self._short @ _shorten(own, self._axes).T > BOUND)
            if (
                _compare(whole, rows, windows, np.arange(len(found)), margin).any()
                or _compare(self._whole, others, own, np.zeros_like(others), margin).any()
            ):
                return True
        return False


def describe_windows(thumbnails: Bytes, margin: float) -> Windows:
    """Describe the window that leaves out `margin` of N thumbnails [N, B]."""
    pixels, half = THUMB_PX**2, THUMB_PX // 2
    bright = thumbnails[:, :pixels].reshape(-1, 1, THUMB_PX, THUMB_PX)
    colours = thumbnails[:, pixels:].reshape(-1, 2, half, half)
    cells = np.concatenate([_average(bright, margin), _average(colours, margin)], axis=1)
    return Windows(
        _measure_relief(cells[:, 0]),
        np.rint(cells / STEPS).astype(np.uint8),
        _measure_shading(thumbnails[:, :pixels]),
        np.abs(thumbnails[:, pixels:].astype(np.int16) - 128).max(axis=1) <= GREY_SPAN,
    )


def _average(planes: Bytes, margin: float) -> npt.NDArray[np.float64]:
    weights = _weigh_pixels(margin, planes.shape[-1])
    # whole numbers below 2**53: exact in whatever order they are added
    means: npt.NDArray[np.float64] = weights @ planes.astype(np.float64) @ weights.T
    means = means * STEPS // weights[0].sum() ** 2
    return means


@cache
def _weigh_pixels(margin: float, px: int) -> npt.NDArray[np.float64]:
    """Return how much of each pixel of a line lies in each cell, in whole numbers [CELLS, px]."""
    width = round((1 - 2 * margin) * px * 1024 / GRID)
    edges = round(margin * px * 1024) + width * np.arange(1, GRID)
    ends = np.arange(px + 1) * 1024
    overlap = np.minimum(edges[1:, None], ends[1:]) - np.maximum(edges[:-1, None], ends[:-1])
    weights: npt.NDArray[np.float64] = overlap.clip(0).astype(np.float64)
    return weights


def _measure_relief(bright: npt.NDArray[np.float64]) -> npt.NDArray[np.int16]:
    steps = [np.diff(bright, axis=axis).reshape(len(bright), CELLS * (CELLS - 1)) for axis in (2, 1)]
    relief = np.concatenate(steps, axis=1)
    length = np.sqrt((relief * relief).sum(axis=1, keepdims=True))
    return np.rint(np.where(length < MIN_RELIEF, 0, relief * SCALE / np.maximum(length, 1))).astype(np.int16)


def _measure_shading(bright: Bytes) -> npt.NDArray[np.float64]:
    """Return the share of neighbouring pixels that differ as in shades, not as in flat colour or at edges [N]."""
    levels = bright.reshape(-1, THUMB_PX, THUMB_PX).astype(np.int16)
    steps = [np.abs(np.diff(levels, axis=axis)) for axis in (1, 2)]
    shades = sum(((one >= SHADES[0]) & (one <= SHADES[1])).sum(axis=(1, 2)) for one in steps)
    share: npt.NDArray[np.float64] = shades / (2 * THUMB_PX * (THUMB_PX - 1))
    return share


def _add_mirrored(windows: Windows) -> Windows:
    """Return the windows with their mirror images behind them."""
    count = len(windows.relief)
    half = CELLS * (CELLS - 1)
    across = -windows.relief[:, :half].reshape(count, CELLS, CELLS - 1)[:, :, ::-1].reshape(count, half)
    down = windows.relief[:, half:].reshape(count, CELLS - 1, CELLS)[:, :, ::-1].reshape(count, half)
    return Windows(
        np.concatenate([windows.relief, np.concatenate([across, down], axis=1)]),
        np.concatenate([windows.cells, windows.cells[..., ::-1]]),
        np.tile(windows.shading, 2),
        np.tile(windows.grey, 2),
    )


def _find_axes(windows: Windows) -> Shortened:
    """Return the AXES directions [R, AXES] in which relief differs most; they decide the pace alone."""
    sample = windows.relief[:: max(1, len(windows.relief) // SAMPLE)].astype(np.float64)
    axes: Shortened = np.linalg.eigh(sample.T @ sample)[1][:, -AXES:].astype(np.float32)
    return axes


def _shorten(windows: Windows, axes: Shortened) -> Shortened:
    """Return relief along the axes, and the length of what is left over [N, AXES + 1], as parts of SCALE."""
    relief = windows.relief.astype(np.float32) / SCALE
    along = relief @ axes
    rest = np.sqrt(np.maximum((relief * relief).sum(axis=1) - (along * along).sum(axis=1), 0) + 1e-5)
    return np.column_stack([along, rest])


def _find_whole_in_windows(one: Bytes, other: Bytes, margins: tuple[float, ...]) -> Iterator[NearPairs]:
    """Yield (row of `one`, row of `other`) where a window of the latter is near to the former, maybe mirrored."""
    if not len(one) or not len(other):
        return
    whole = _add_mirrored(describe_windows(one, 0.0))
    axes = _find_axes(whole)
    short = _shorten(whole, axes)
    for first in range(0, len(other), WINDOWS_AT_ONCE):
        for margin in margins:
            windows = describe_windows(other[first : first + WINDOWS_AT_ONCE], margin)
            for rows, other_rows in _match(whole, short, windows, _shorten(windows, axes), margin):
                yield rows % len(one), other_rows + first


def _match(
    whole: Windows, short: Shortened, windows: Windows, shortened: Shortened, margin: float
) -> Iterator[NearPairs]:
    """Yield the rows of near pairs; short, shortened: what `_shorten` makes of the two."""
    turned = np.ascontiguousarray(shortened.T)
    bounds = np.empty(
        (THUMBNAILS_AT_ONCE, turned.shape[1]), np.float32
    )  # written over and over: it stays in the cache
    for start in range(0, len(short), THUMBNAILS_AT_ONCE):
        part = short[start : start + THUMBNAILS_AT_ONCE]
        np.matmul(part, turned, out=bounds[: len(part)])
        rows, other_rows = np.divmod(np.flatnonzero(bounds[: len(part)] > BOUND), turned.shape[1])
        if len(rows):
            near = _compare(whole, rows + start, windows, other_rows, margin)
            yield rows[near] + start, other_rows[near]


def _compare(
    whole: Windows, rows: Places, windows: Windows, other_rows: Places, margin: float
) -> npt.NDArray[np.bool_]:
    """Return whether each of P pairs is near, by the definition [P]."""
    relief = np.einsum("nr,nr->n", whole.relief[rows], windows.relief[other_rows], dtype=np.int64)
    near: npt.NDArray[np.bool_] = relief >= NEAR_RELIEF * SCALE**2
    equal, rows, other_rows = relief[near] >= EQUAL_RELIEF * SCALE**2, rows[near], other_rows[near]
    levels = np.abs(whole.cells[rows].astype(np.int16) - windows.cells[other_rows]).max(axis=(2, 3))
    same = levels <= NEAR_LEVELS[margin]
    colour = same[:, 1:].all(axis=1) | whole.grey[rows] | windows.grey[other_rows]
    shading = np.minimum(whole.shading[rows], windows.shading[other_rows])
    shaded = (shading >= MIN_SHADING) | equal & (shading >= SOME_SHADING)
    near[near] = shaded | same[:, 0] & colour
    return near
