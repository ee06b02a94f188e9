"""`tuwen check`: anybody's result file against the query and gallery tables that it was made for."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tuwen.core.errors import UserError
from tuwen.data.formats.directions import DIRECTIONS
from tuwen.data.formats.text_files import read_csv_rows
from tuwen.prediction.result_file import Fault, find_faults

ID_COLUMNS = ("text_id", "image_id")
MAX_FAULTS_SHOWN = 20  # of one kind


def check_result_file(
    path: Path | str, queries: Path | str, gallery: Path | str, k: int = 5, truth: Path | str | None = None
) -> bool:
    """Print every fault of the result file `path`, and the warning if there is one; return whether it is sound.

    queries, gallery: the contest's CSVs, others with a column text_id or image_id, or our Parquet tables; which of
    them holds texts decides the direction. Of one kind, MAX_FAULTS_SHOWN faults are printed and the rest is
    counted. truth: a table of true pairs (truth.py), by which a sound file is scored too. Raises UserError where a
    table cannot be read, repeats an id or is empty, where both hold texts or both images, and for a truth that is
    not one of these.
    """
    path, queries, gallery = Path(path), Path(queries), Path(gallery)
    query_column, query_ids = read_ids(queries)
    gallery_column, gallery_ids = read_ids(gallery)
    columns = {(direction.query_id, direction.gallery_id): name for name, direction in DIRECTIONS.items()}
    if (query_column, gallery_column) not in columns:
        raise UserError(
            f"{queries} and {gallery}: both have the column {query_column}; one must hold texts (text_id), "
            "the other pictures (image_id)"
        )
    direction = columns[query_column, gallery_column]
    report = find_faults(path, query_ids, gallery_ids, k, direction=direction)
    _print_faults(path, report.faults)
    if report.warning:
        print(f"{path}: warning: {report.warning}")
    if report.faults:
        print(f"{path}: {len(report.faults)} faults{', so it is not scored' if truth else ''}")
        return False
    print(f"{path}: sound: {len(query_ids)} queries, {report.rows} rows, {report.distinct} distinct results")
    if truth is not None:
        from tuwen.prediction.truth import Task, describe_score  # it needs torch, the check does not

        texts = queries if query_column == "text_id" else gallery
        print(describe_score(path, Task(direction, query_ids, gallery_ids, texts), Path(truth), k))
    return True


def _print_faults(path: Path, faults: Sequence[Fault]) -> None:
    counts = Counter[str]()
    for fault in faults:
        counts[fault.kind] += 1
        if counts[fault.kind] <= MAX_FAULTS_SHOWN:
            print(f"{path}: line {fault.line}: {fault.text}")
    for kind, count in counts.items():
        if count > MAX_FAULTS_SHOWN:
            print(f"{path}: {count - MAX_FAULTS_SHOWN} more faults like these ({kind})")


def read_ids(path: Path) -> tuple[str, list[str]]:
    """Return (text_id or image_id, its values in order) of a CSV in UTF-8 or GB18030, or of a Parquet table."""
    read = _read_parquet_ids if path.suffix.lower() == ".parquet" else _read_csv_ids
    column, ids, lines = read(path)
    if not ids:
        raise UserError(f"{path}: no row; name the table with the {column} of each query or gallery item")
    first: dict[str, int] = {}
    for line, value in zip(lines, ids, strict=True):
        if first.setdefault(value, line) != line:
            raise UserError(f"{path}:{line}: {value!r} stands on line {first[value]} too; give each {column} once")
    return column, ids


def _read_csv_ids(path: Path) -> tuple[str, list[str], list[int]]:
    if not path.is_file():
        raise UserError(f"{path}: not found, or not a file; name a CSV or Parquet table")
    column, ids, lines = "", [], []
    for line, cells in read_csv_rows(path, ()):
        column = column or _find_id_column(path, list(cells))
        ids.append(cells[column])
        lines.append(line)
    return column or "id", ids, lines


def _read_parquet_ids(path: Path) -> tuple[str, list[str], list[int]]:
    try:
        from tuwen.data.formats import pairs
    except ModuleNotFoundError as error:
        raise UserError(f"{path}: a Parquet table needs {error.name}: pip install 'tuwen[data]'") from None
    table = pairs.read_table(path)
    column = _find_id_column(path, table.schema.names)
    return column, table[column].to_pylist(), list(range(1, table.num_rows + 1))


def _find_id_column(path: Path, names: list[str]) -> str:
    columns = [name for name in ID_COLUMNS if name in names]
    if len(columns) != 1:
        raise UserError(f"{path}: one of the columns text_id and image_id expected, found {names}; rename one")
    return columns[0]
