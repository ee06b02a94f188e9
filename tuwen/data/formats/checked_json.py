"""JSON files that are checked as they are read: one of another version is refused by its place in the file."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tuwen.core.errors import UserError
from tuwen.data.formats.json_file import read_json


class CheckedJson(BaseModel):
    """A part of a file; further keys are ignored."""

    model_config = ConfigDict(strict=True, frozen=True)


Kind = TypeVar("Kind", bound=CheckedJson)


def read_checked(path: Path, kind: type[Kind]) -> Kind:
    """Read the file as `kind`. Raises UserError when it is missing or not of that form."""
    body = read_json(path)
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{path}: {place + ': ' if place else ''}{first['msg'].lower()}; remove it and run `dvc repro`"
        ) from None
