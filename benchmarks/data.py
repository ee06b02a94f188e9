"""The data side against bare loops, in one run: ratios, seconds, memory.

    .venv/bin/python benchmarks/data.py [augment] [measure] [expectations] [status] [ingest] [scale]

Run it alone on the machine. Images are made here: 640 x 480, like photographs in size and detail (about 130 kB).
"""

import sys
import tempfile
from pathlib import Path

from data_files import bench_ingest, bench_scale, bench_status
from data_quality import bench_expectations, bench_measure
from data_views import bench_augment

PARTS = {
    "augment": bench_augment,
    "measure": bench_measure,
    "expectations": bench_expectations,
    "status": bench_status,
    "ingest": bench_ingest,
    "scale": bench_scale,
}


def main() -> None:
    """Run the parts that are named, or all."""
    for name in sys.argv[1:] or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            PARTS[name](Path(folder))


if __name__ == "__main__":
    main()
