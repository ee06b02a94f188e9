"""Examine the raw sets, quarantine bad rows, split without a leak.    python -m stages.validate"""

from pathlib import Path

from tuwen.core.errors import report_user_errors
from tuwen.core.params import load_params
from tuwen.core.progress import say
from tuwen.data.quality.summary import format_counts
from tuwen.data.quality.validate import validate
from tuwen.report.quality.page import write_page


@report_user_errors
def main() -> None:
    """Run the stage."""
    params, data = load_params(), Path("data")
    validated = validate(
        data / "raw",
        data / "clean",
        params.validate_,
        params.split,
        list(params.corpus),
        params.text,
        docs=Path("runs/data-docs"),
    )
    page = data / "clean/quality.html"
    write_page(page, data, validated.summary, validated.frames, validated.quarantine, validated.examples)
    say(format_counts(validated.summary, data / "clean"))


if __name__ == "__main__":
    main()
