"""`tuwen check`: anybody's result file against the query and gallery tables that it was made for."""

from collections import Counter
from pathlib import Path

from tuwen.core.errors import UserError
from tuwen.prediction.result_file import find_faults

ID_COLUMNS = ("text_id", "image_id")
DIRECTIONS = {("text_id", "image_id"): "t2i", ("image_id", "text_id"): "i2t"}
SHOWN = 20  # faults of one kind


def check_result_file(path: Path | str, queries: Path | str, gallery: Path | str, k: int = 5) -> bool:
    """Print every fault of the result file `path`, and the warning if there is one; whether it is sound.

    queries, gallery: the contest's CSVs, others with a column text_id or image_id, or our Parquet tables; which of
    them holds texts decides the direction. Of one kind, SHOWN faults are printed and the rest is counted. Raises
    UserError where a table cannot be read, repeats an id or is empty, and where both hold texts or both pictures.
    """
    path, queries, gallery = Path(path), Path(queries), Path(gallery)
    query_column, query_ids = read_ids(queries)
    gallery_column, gallery_ids = read_ids(gallery)
    direction = DIRECTIONS.get((query_column, gallery_column))
    if direction is None:
        raise UserError(
            f"{queries} and {gallery}: both have the column {query_column}; one must hold texts (text_id), "
            "the other pictures (image_id)"
        )
    verdict = find_faults(path, query_ids, gallery_ids, k, direction=direction)
    counts = Counter[str]()
    for fault in verdict.faults:
        counts[fault.kind] += 1
        if counts[fault.kind] <= SHOWN:
            print(f"{path}: line {fault.line}: {fault.text}")
    for kind, count in counts.items():
        if count > SHOWN:
            print(f"{path}: {count - SHOWN} more faults like these ({kind})")
    if verdict.warning:
        print(f"{path}: warning: {verdict.warning}")
    if verdict.faults:
        print(f"{path}: {len(verdict.faults)} faults")
        return False
    print(f"{path}: sound: {len(query_ids)} queries, {verdict.rows} rows, {verdict.distinct} distinct results")
    return True


def read_ids(path: Path) -> tuple[str, list[str]]:
    """(text_id or image_id, its values in order) of a CSV in UTF-8 or GB18030, or of a Parquet table."""
    rows = _parquet_ids(path) if path.suffix == ".parquet" else _csv_ids(path)
    column, ids, lines = rows
    if not ids:
        raise UserError(f"{path}: no row; name the table with the {column} of each query or gallery item")
    first: dict[str, int] = {}
    for line, value in zip(lines, ids, strict=True):
        if first.setdefault(value, line) != line:
            raise UserError(f"{path}:{line}: {value!r} stands on line {first[value]} too; give each {column} once")
    return column, ids


def _csv_ids(path: Path) -> tuple[str, list[str], list[int]]:
    from tuwen.data.formats.text_files import read_csv_rows

    if not path.is_file():
        raise UserError(f"{path}: not found, or not a file; name a CSV or Parquet table")
    column, ids, lines = "", [], []
    for line, cells in read_csv_rows(path, ()):
        column = column or _id_column(path, list(cells))
        ids.append(cells[column])
        lines.append(line)
    return column or "id", ids, lines


def _parquet_ids(path: Path) -> tuple[str, list[str], list[int]]:
    try:
        from tuwen.data.formats import pairs
    except ModuleNotFoundError as error:
        raise UserError(f"{path}: a Parquet table needs {error.name}: pip install 'tuwen[data]'") from None
    table = pairs.read_table(path)
    column = _id_column(path, table.schema.names)
    return column, table[column].to_pylist(), list(range(1, table.num_rows + 1))


def _id_column(path: Path, names: list[str]) -> str:
    found = [name for name in ID_COLUMNS if name in names]
    if len(found) != 1:
        raise UserError(f"{path}: one of the columns text_id and image_id expected, found {names}; rename one")
    return found[0]
