"""WebDataset tars: images beside txt or json of the same key; or a list of tars that stay where they are."""

import csv
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from tuwen.core.errors import UserError
from tuwen.core.executor import make_executor
from tuwen.core.params import WebdatasetSource
from tuwen.core.progress import Extent
from tuwen.data.formats.foreign_tar import tar_stream
from tuwen.data.formats.image_files import is_hidden
from tuwen.data.formats.manifest import hash_file
from tuwen.data.formats.text_files import Reading, read_csv_rows
from tuwen.data.sources.files import check_name, make_relative, measure_sizes
from tuwen.data.sources.records import ImageRecord, NoteRecord, PairRecord, Record, SourceSets, TextRecord

if TYPE_CHECKING:
    import pyarrow as pa

TAR_ENDING = re.compile(r"\.(?:tar(?:\.(?:gz|bz2|xz|lzma))?|tgz|tbz2?|txz|tlz)$", re.IGNORECASE)
# what holds members as tars do, and is not read; parts of what was split
ARCHIVE_ENDING = re.compile(
    r"\.(?:zst|tzst|lz4|zip|rar|7z|gz|bz2|xz|z\d*)$|\.(?:tar|tgz|zip|7z|rar)(?:\.gz)?\.(?:\d+|part\w*|a[a-z])$",
    re.IGNORECASE,
)
LIST_COLUMNS = ("address", "size", "sha256", "pairs")
LIST_REMEDY = "write the list anew with `tuwen shards`"


def read(source: WebdatasetSource, extent: Extent) -> SourceSets:
    """Return the pairs of all tars below `root`, plain or compressed, in the order of their paths.

    An id is the tar's path from `root` without its ending, then the key, so that another tar does not change it.
    Raises UserError where there is no tar, and where a tar cannot be read (see `tar_stream.read_samples`).
    """
    root = Path(source.root)
    if source.is_streamed:
        raise UserError(f"{root}: a list of shards is for `corpus` alone; `source` must name a folder of tars")
    find_shards([root])  # what is wrong with the folder, before a record is asked for
    return {"labelled": _labelled(root, source, extent)}


def _labelled(root: Path, source: WebdatasetSource, extent: Extent) -> Iterator[Record]:
    tars = find_shards([root])
    stems = Counter(map(str, map(_remove_ending, tars)))
    if twice := [path for path in tars if stems[str(_remove_ending(path))] > 1]:
        raise UserError(f"{twice[0]} and {twice[1].name} would give equal ids; rename one, or take one away")
    extent.begin("bytes", measure_sizes(tars))
    for path in tars:
        yield from _records(path, root, source, extent)
    for path in _list_files(root):
        if path not in tars:
            yield NoteRecord("files that are no tars", make_relative(path, root))


def _remove_ending(path: Path) -> Path:
    return path.with_name(TAR_ENDING.sub("", path.name))


def find_shards(places: Iterable[Path]) -> list[Path]:
    """Return the tars among `places`, and those in its folders, by path.

    Raises UserError where a folder has none, or an archive of another kind beside them.
    """
    tars: list[Path] = []
    for place in places:
        here = [place] if place.is_file() else _list_tars(place)
        if not here:
            raise UserError(f"{place}: no such folder, or no .tar in it; name the folder that holds the shards")
        tars += here
    return tars


def is_tar_name(path: Path) -> bool:
    """Whether a file of this name should be a tar, plain or compressed."""
    return TAR_ENDING.search(path.name) is not None


def _list_files(folder: Path) -> list[Path]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in files if not is_hidden(path.relative_to(folder)))


def _list_tars(folder: Path) -> list[Path]:
    files = _list_files(folder)
    tars = [path for path in files if is_tar_name(path)]
    archives = [path for path in files if ARCHIVE_ENDING.search(path.name) and path not in tars]
    if tars and archives:
        raise UserError(
            f"{archives[0]}: an archive that is not read, among {len(tars)} tars and {len(archives)} such; unpack "
            "it, or pack it as .tar or .tar.gz, or move it elsewhere"
        )
    return tars


def list_shards(places: Iterable[Path], file: TextIO) -> None:
    """Write the list of the tars in `places` that `read_shard_list` reads; with their paths as they are given."""
    tars = find_shards(places)
    for tar in tars:
        check_name(tar)
    with make_executor() as executor:
        write_shard_list(file, tars, executor.map(measure_shard, [tar.absolute() for tar in tars]))


def write_shard_list(file: TextIO, tars: Iterable[Path], measured: Iterable[tuple[int, str, int]]) -> None:
    """Write a CSV with the header address,size,sha256,pairs; measured: `measure_shard` of each tar."""
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(LIST_COLUMNS)
    rows.writerows((tar.as_posix(), *measures) for tar, measures in zip(tars, measured, strict=True))


def measure_shard(tar: Path) -> tuple[int, str, int]:
    """Return (bytes, sha256, pairs) of a tar, which is read twice: for its sha256 and its members' names.

    Members that are neither picture nor caption of a key are named on stderr, by their extensions.
    """
    left_over = Counter[str]()
    with open(tar, "rb") as file:
        pairs = tar_stream.count_pairs(file, left_over)
    if left_over:
        counts = ", ".join(f"{what} {count}" for what, count in sorted(left_over.items()))
        print(f"{tar}: members left over: {counts}", file=sys.stderr)
    return tar.stat().st_size, hash_file(tar), pairs


def read_shard_list(source: WebdatasetSource, readings: list[Reading] | None = None) -> "pa.Table":
    """Read the list of shards `root`, a CSV with the header address,size,sha256,pairs, as a `pairs.SHARDS` table.

    address: a URL or a path, kept as it is written; a relative path starts from the working directory, which is
    the repository's root. readings: gets how the list was read. Raises UserError that names the line where a value
    is wrong, an address or a sha256 comes again, or a file is missing or of another size.
    """
    import pyarrow as pa

    from tuwen.data.formats import pairs

    path, rows, seen = Path(source.root), [], set[str]()
    lines: dict[str, int] = {}  # sha256 -> its line
    for line, cells in read_csv_rows(path, LIST_COLUMNS, encoding=source.encoding, readings=readings):
        place, address = f"{path}:{line}", cells["address"]
        row = {
            "address": address,
            "size": _number(cells, "size", place),
            "sha256": cells["sha256"],
            "pairs": _number(cells, "pairs", place),
            "caption_key": source.caption,
        }
        if not re.fullmatch("[0-9a-f]{64}", cells["sha256"]):
            raise UserError(
                f"{place}: sha256 is {cells['sha256']!r:.80}, expected 64 hexadecimal digits; {LIST_REMEDY}"
            )
        if address in seen:
            raise UserError(f"{place}: {address} is listed twice; take one line out")
        if (first := lines.setdefault(cells["sha256"], line)) != line:
            raise UserError(f"{place}: the same sha256 as in line {first}: one tar twice; take one line out")
        if "://" not in address:
            _check_file(Path(address), row["size"], place)
        seen.add(address)
        rows.append(row)
    return pa.Table.from_pylist(rows, pairs.SHARDS)


def _check_file(path: Path, size: int, place: str) -> None:
    actual = path.stat().st_size if path.is_file() else None
    if actual is None:
        raise UserError(f"{place}: {path} not found; a path starts from the repository's root, or is absolute")
    if actual != size:
        raise UserError(f"{place}: {path} has {actual} bytes, expected {size}; copy it again, or {LIST_REMEDY}")


def _number(cells: dict[str, str], column: str, place: str) -> int:
    if not re.fullmatch("[0-9]{1,18}", cells[column]):
        raise UserError(f"{place}: {column} is {cells[column]!r:.80}, expected a whole number; {LIST_REMEDY}")
    return int(cells[column])


def _records(path: Path, root: Path, source: WebdatasetSource, extent: Extent) -> Iterator[Record]:
    file, left_over, notes, start = make_relative(path, root), Counter[str](), Counter[str](), extent.done
    stem = make_relative(_remove_ending(path), root)
    with open(path, "rb") as tar:
        samples = tar_stream.read_samples(tar, source.caption, source.encoding, left_over, notes)
        for row, sample in enumerate(samples, 1):
            extent.done = start + tar.tell()
            image_id = f"{stem}/{sample.key}"
            yield ImageRecord(image_id, sample.image, file, row, sample.fault)
            if sample.key.endswith(f"@{row}"):
                yield NoteRecord("keys that come again in their tar", image_id)
            for number, caption in enumerate(sample.captions, 1):
                text_id = f"{image_id}#{number}"
                yield TextRecord(text_id, caption, file, row)
                yield PairRecord(text_id, image_id, text_id, file, row)
    for what, count in sorted(left_over.items()):
        yield from repeat(NoteRecord(f"members left over: {what}", file), count)
    for what, count in sorted(notes.items()):
        yield from repeat(NoteRecord(what, file), count)
