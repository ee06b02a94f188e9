"""Foreign forms, in and out. A source is read as a stream of records: every row is kept, nothing is judged.

In reading order: records.py (what a source yields), files.py (its files and folders); then a module for each form,
sample.py, contest.py, table.py (with url_images.py), chinese_clip.py, zero.py and webdataset.py;
then ingest.py, which turns records into raw sets, and export.py, which writes sets in the forms of other programs.
"""

from pathlib import Path

from tuwen.core.params import Source
from tuwen.core.progress import Extent
from tuwen.data.formats.text_files import Reading
from tuwen.data.sources.files import check_names
from tuwen.data.sources.records import SourceSets


def read_source(source: Source, readings: list[Reading] | None = None, extent: Extent | None = None) -> SourceSets:
    """Return the record streams of `source`: "labelled", and "t2i" and "i2t" where it has task files.

    readings: gets how each text file is read, when its stream has come to it. extent: how much of a stream was
    read; one stream after another. Raises UserError, here or while a stream is read, where a file is not of its
    form, and here where the name of a file below the root is not UTF-8.
    """
    check_names(Path(source.root))
    read_files, extent = readings if readings is not None else [], extent or Extent()
    match source.kind:  # imported here: each source needs only its own packages
        case "sample":
            from tuwen.data.sources import sample

            return sample.read(source, extent)
        case "contest":
            from tuwen.data.sources import contest

            return contest.read(source, read_files, extent)
        case "table":
            from tuwen.data.sources import table

            return table.read(source, read_files, extent)
        case "chinese_clip":
            from tuwen.data.sources import chinese_clip

            return chinese_clip.read(source, read_files, extent)
        case "zero":
            from tuwen.data.sources import zero

            return zero.read(source, read_files, extent)
        case "webdataset":
            from tuwen.data.sources import webdataset

            return webdataset.read(source, extent)
