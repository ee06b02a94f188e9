"""Judge the raw sets, quarantine bad rows, split without a leak.    python -m stages.validate"""

from pathlib import Path

from tuwen.core.errors import reports_user_errors
from tuwen.core.params import load_params
from tuwen.data.quality.validate import validate


@reports_user_errors
def main() -> None:
    """Run the stage."""
    params = load_params()
    validate(
        Path("data/raw"),
        Path("data/clean"),
        params.validate_,
        params.split,
        list(params.corpus),
        params.text.max_tokens,
        docs=Path("runs/data-docs"),
    )


if __name__ == "__main__":
    main()
