"""One JSON file, read with an error that names the file and the fix, and written in one form everywhere."""

import json
from pathlib import Path
from typing import Any

from tuwen.core.errors import UserError
from tuwen.data.formats.impostors import refuse_impostor


def read_json(path: Path, remedy: str = "run `dvc repro`") -> Any:
    """Return the content of a JSON file.

    remedy: what gets the file again, as the end of a sentence. Raises UserError when it is missing or no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: missing; {remedy}") from None
    except (ValueError, RecursionError) as error:
        if path.stat().st_size:
            refuse_impostor(path, "valid JSON")
        raise UserError(f"{path}: not valid JSON ({error}); remove it and {remedy}") from None


def read_json_object(path: Path, remedy: str) -> dict[str, Any]:
    """Return the object that a JSON file holds. Raises UserError as `read_json`, and for any other value."""
    body = read_json(path, remedy)
    if isinstance(body, dict) and "error" in body:
        refuse_impostor(path, "JSON of a model")
    if not isinstance(body, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(body).__name__}; remove it and {remedy}")
    return body


def write_json(path: Path, body: Any, *, sort_keys: bool = False) -> None:
    """Write `body` as UTF-8, one value a line; keys in the order of `body`, or sorted."""
    text = json.dumps(body, indent=1, ensure_ascii=False, sort_keys=sort_keys)
    path.write_text(f"{text}\n", encoding="utf-8")
