"""One file per format in. A source writes the raw sets: every row kept, nothing judged."""

from pathlib import Path

from tuwen import manifest, pairs
from tuwen.params import Source


def ingest(source: Source, raw: Path) -> None:
    """Write `raw/<set>/` (tables, shards, manifest) for every set; a set that the source lacks is empty."""
    from tuwen.sources import sample

    sets = sample.read(source, raw.parent)
    for name in pairs.RAW_SETS:
        pairs.write(raw / name, sets.get(name, pairs.empty()))
        manifest.write(raw / name, {"source": Path(source.root)}, source.model_dump())
