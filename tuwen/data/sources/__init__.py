"""One file per format in. A source is read as a stream of records: every row kept, nothing judged."""

from pathlib import Path

from tuwen.core.params import Source
from tuwen.data.sources.files import check_names
from tuwen.data.sources.records import SourceSets


def read_source(source: Source) -> SourceSets:
    """The record streams of `source`: "labelled", and "t2i" and "i2t" where it has task files.

    Raises UserError, here or while a stream is read, where the form of a file cannot be read, and here where
    the name of a file below the root is not UTF-8.
    """
    check_names(Path(source.root))
    match source.kind:  # imports in here: a source needs its own packages alone
        case "sample":
            from tuwen.data.sources import sample

            return sample.read(source)
        case "contest":
            from tuwen.data.sources import contest

            return contest.read(source)
        case "table":
            from tuwen.data.sources import table

            return table.read(source)
        case "chinese_clip":
            from tuwen.data.sources import chinese_clip

            return chinese_clip.read(source)
        case "zero":
            from tuwen.data.sources import zero

            return zero.read(source)
        case "webdataset":
            from tuwen.data.sources import webdataset

            return webdataset.read(source)
