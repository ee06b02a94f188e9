"""Search in the browser and by HTTP.    python -m tuwen.service"""

from tuwen.core.environment import prepare_process
from tuwen.core.errors import report_user_errors


@report_user_errors
def main() -> None:
    """Serve until SIGTERM or Ctrl-C, which let the requests under way end."""
    prepare_process()
    from tuwen.service.serve import run_service

    run_service()


if __name__ == "__main__":
    main()
