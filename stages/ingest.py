"""Read the source's pairs into raw sets: every row is kept, nothing is judged.    python -m stages.ingest"""

from pathlib import Path

from tuwen.core.errors import report_user_errors
from tuwen.core.params import load_params
from tuwen.data.sources.ingest import ingest


@report_user_errors
def main() -> None:
    """Run the stage."""
    ingest(load_params().source, Path("data/raw"))


if __name__ == "__main__":
    main()
