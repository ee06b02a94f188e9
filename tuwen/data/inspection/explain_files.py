"""What to do with files that are none of the forms which ingest reads."""

from collections.abc import Sequence
from pathlib import Path

from tuwen.data.formats.image_files import is_image_name

ARCHIVES = frozenset((".zip", ".rar", ".7z", ".tgz", ".gz", ".bz2", ".xz", ".zst"))
SHEETS = frozenset((".xlsx", ".xls", ".ods", ".et", ".numbers"))
TABLE = "a table: pairs.csv with the first line `image,caption` and a line for each pair"


def explain_files(place: Path, files: Sequence[Path]) -> str:
    """Return what the files below `place` seem to be, and how they become something that can be read."""
    images = [path for path in files if is_image_name(path)]
    by_ending = {path.suffix.lower(): path for path in reversed(files)}
    stems = {path.with_suffix("") for path in images}
    captions = [path for path in files if path.suffix.lower() == ".txt" and path.with_suffix("") in stems]
    if not files:
        return f"nothing is in it; put pictures there, and {TABLE}"
    if captions:
        packed = f"{place.as_posix()}-tar"
        return (
            f"{len(captions)} of {len(images)} pictures have a caption of the same name, such as "
            f"{captions[0].name}; pack them: mkdir {packed} && "
            f"tar --sort=name -cf {packed}/0.tar -C {place.as_posix()} . && tuwen init {packed}"
        )
    if sheet := next((by_ending[ending] for ending in by_ending if ending in SHEETS), None):
        return f"{sheet.name} is a spreadsheet; save it as CSV, UTF-8"
    if ".json" in by_ending:
        return f"{by_ending['.json'].name} is JSON; write it as .jsonl, one object on each line"
    if ".txt" in by_ending:
        return f"{by_ending['.txt'].name} is no table; write {TABLE}"
    if archive := next((by_ending[ending] for ending in by_ending if ending in ARCHIVES), None):
        return f"{archive.name} is an archive; unpack it"
    classes = sorted({path.parent.name for path in images if path.parent != place})
    if len(classes) > 1:
        shown = ", ".join(classes[:3])
        return (
            f"{len(images)} pictures in {len(classes)} folders ({shown} …) and no captions; if they are classes, "
            f"`tuwen classify --model MODEL --folder {place.as_posix()}` measures a model on them; to train, "
            f"write {TABLE}"
        )
    return f"{len(images)} pictures among {len(files)} files, and no captions; write {TABLE}"
