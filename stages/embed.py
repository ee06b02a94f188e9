"""Embed one set by one model.    python -m stages.embed MODEL SET"""

import sys
from pathlib import Path

from tuwen.core.errors import report_user_errors
from tuwen.core.params import load_params
from tuwen.retrieval.embed import embed_set


@report_user_errors
def main() -> None:
    """Run the stage."""
    model, name = sys.argv[1:]
    places = Path("models") / model, Path("data/clean") / name, Path("embeddings") / model / name
    embed_set(*places, load_params().embed, processes=None)


if __name__ == "__main__":
    main()
