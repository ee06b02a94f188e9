"""Read one corpus source into a raw set: every row is kept, nothing is judged.    python -m stages.corpus NAME"""

import sys
from pathlib import Path

from tuwen.core.errors import UserError, report_user_errors
from tuwen.core.params import load_params
from tuwen.data.sources.ingest import ingest_corpus


@report_user_errors
def main() -> None:
    """Run the stage."""
    (name,) = sys.argv[1:]
    corpus = load_params().corpus
    if name not in corpus:
        raise UserError(
            f"params.yaml: corpus has no source {name!r}, it has {sorted(corpus)}; add it or name another"
        )
    ingest_corpus(corpus[name], Path("data/raw/corpus") / name)


if __name__ == "__main__":
    main()
