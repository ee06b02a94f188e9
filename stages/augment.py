"""Make the views of every pair of the augmented splits.    python -m stages.augment"""

from pathlib import Path

from tuwen.core.errors import report_user_errors
from tuwen.core.params import load_params
from tuwen.data.augment.stored_views import augment


@report_user_errors
def main() -> None:
    """Run the stage."""
    params = load_params()
    augment(Path("data/clean"), Path("data/augmented"), params.augment, params.image)


if __name__ == "__main__":
    main()
