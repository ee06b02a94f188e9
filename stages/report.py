"""Write the report of all results.    python -m stages.report"""

from pathlib import Path

from tuwen.core.errors import report_user_errors
from tuwen.core.params import load_params
from tuwen.report.report import write_reports


@report_user_errors
def main() -> None:
    """Run the stage."""
    write_reports(Path("data"), Path("embeddings"), Path("models"), Path("results"), Path("index"), load_params())


if __name__ == "__main__":
    main()
