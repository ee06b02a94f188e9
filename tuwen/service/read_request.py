"""The bytes of a request -> a checked body: JSON, or a form with a picture file."""

import json
from typing import Any, TypeVar

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException

from tuwen.core.errors import UserError
from tuwen.data.formats.image_files import decode_base64
from tuwen.data.formats.images import Pixels, open_image
from tuwen.data.formats.picture_rule import PictureRule
from tuwen.retrieval.retriever import read_square
from tuwen.service.messages import Body, RequestError, make_invalid

Sent = TypeVar("Sent", bound=Body)
FORM = "multipart/form-data"
STRINGS = ("text", "of", "image_id", "text_id")  # fields of a form that are taken as they are; others are JSON
MAX_FIELDS = 20


async def read_body(request: Request, kind: type[Sent]) -> tuple[Sent, bytes | None]:
    """Return the body and the picture file that a form brought. Raises RequestError where it does not fit."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    picture = None
    if media == FORM:
        values, picture = await _read_form(request)
    elif media == "application/json":
        try:
            values = json.loads(await request.body())
        except (ValueError, RecursionError):
            raise make_invalid('the body is no JSON; send an object such as {"text": "一只橘猫"}') from None
    else:
        raise RequestError(
            415, "unsupported", f"content type {media[:80] or 'none'!r}: send application/json or {FORM}"
        )
    try:
        return kind.model_validate(values), picture
    except ValidationError as error:
        raise make_invalid(_explain_fault(error)) from None


async def _read_form(request: Request) -> tuple[dict[str, Any], bytes | None]:
    values: dict[str, Any] = {}
    picture = None
    try:
        async with request.form(max_files=1, max_fields=MAX_FIELDS) as form:
            for name, value in form.multi_items():
                if isinstance(value, UploadFile):
                    if name != "image":
                        raise make_invalid(f"file {name!r}: the picture's field is called image")
                    picture = await value.read()
                    values[name] = ""  # the query is a picture
                else:
                    values[name] = value if name in STRINGS else _read_field(name, value)
    except (MultiPartException, HTTPException, ValueError, KeyError) as error:
        raise make_invalid(f"the form cannot be read ({getattr(error, 'detail', error)})") from None
    return values, picture


def _read_field(name: str, value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise make_invalid(f'{name}: as in JSON, such as 20, true or {{"source": ["art"]}}') from None


def read_base64(value: str, name: str = "image") -> bytes:
    """Return the bytes that a string stands for. Raises RequestError where it is no base64."""
    data = decode_base64(value.encode("utf-8", "replace"))
    if data is None:
        raise make_invalid(f"{name}: not base64; send the bytes of a picture file in it")
    return data


def decode_upload(data: bytes, rule: PictureRule, max_pixels: int, name: str = "image") -> Pixels:
    """Return the model's view of a picture file. Raises RequestError for one that is broken or too large.

    Its size is judged by its header, before a pixel is decoded.
    """
    try:
        width, height = open_image(data).size
        if width * height > max_pixels:
            raise make_invalid(
                f"{name}: {width} x {height} pixels, at most {max_pixels:,} are taken; send it smaller"
            )
        return read_square((name, data), rule)
    except UserError as error:
        raise make_invalid(f"{error}; send a JPEG, PNG, WebP or another picture file") from None
    except OSError as error:
        raise make_invalid(
            f"{name}: no picture that can be read ({error}); send a JPEG, PNG or WebP file"
        ) from None


def _explain_fault(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    words = first["msg"].removeprefix("Value error, ")
    return f"{place}: {words[:1].lower()}{words[1:]}" if place else words
