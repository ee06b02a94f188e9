"""A user's mistake ends with one clear message and a non-zero exit code, never with a traceback."""

import functools
import sys
from collections.abc import Callable


class UserError(ValueError):
    """Something the user can mend: the message names the place, the value and the fix."""


def reports_user_errors(main: Callable[[], None]) -> Callable[[], None]:
    """Wrap a script's `main`: a `UserError` is printed to stderr and becomes exit code 1."""

    @functools.wraps(main)
    def wrapped() -> None:
        try:
            main()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)

    return wrapped
