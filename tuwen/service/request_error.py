"""What a client is told that asked for something that it cannot have."""

from collections.abc import Mapping


class RequestError(Exception):
    """An answer other than 200: a status, a code for programs, and words for a person that say what to do."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, dict(headers or {})

    @property
    def body(self) -> dict[str, dict[str, str]]:
        """The answer as JSON."""
        return {"error": {"code": self.code, "message": self.message}}


def make_invalid(message: str) -> RequestError:
    """Return the error of a request whose content does not fit."""
    return RequestError(422, "invalid", message)
