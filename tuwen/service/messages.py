"""The bodies of requests, checked as they come in and described in the OpenAPI schema; and of refusals."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from tuwen.service.index.items import RANGE_COLUMNS, VALUE_COLUMNS
from tuwen.service.index.store import ItemFilter

MAX_VALUES = 100  # of one column of a filter
MAX_EMBEDDED = 64  # texts or pictures of one request
MAX_VALUE_CHARS = 1024  # of a value of a filter: filters are kept with what they found
MAX_OFFSET = 10_000
MAX_MARKED = 20  # pictures that answers should be like, and as many that they should not
MAX_DIMENSIONS = 16_384  # of a vector
MAX_NUMBER = 1e9  # of its numbers, whose squares float32 holds
QUERIES = ("text", "image", "image_id", "text_id", "text_vector", "image_vector")
GIVEN_WORDS = "a {}'s vector, by the program whose vectors are indexed, or of this model's space; of any length"


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


def _require_unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair; send whole characters") from None
    return text


def _require_words(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty; write what to look for")
    return text


def _check_range(bounds: list[int]) -> list[int]:
    if bounds[0] > bounds[1]:
        raise ValueError("the first number must not be above the second")
    return bounds


def _check_vector(vector: list[float]) -> list[float]:
    if not any(vector):
        raise ValueError("holds zeros alone, which point nowhere; embed it again")
    return vector


String = Annotated[str, AfterValidator(_require_unicode)]
Words = Annotated[String, AfterValidator(_require_words)]
Natural = Annotated[int, Field(ge=0, le=2**31 - 1)]
NaturalRange = Annotated[list[Natural], Field(min_length=2, max_length=2), AfterValidator(_check_range)]
FilterValue = Annotated[str, Field(min_length=1, max_length=MAX_VALUE_CHARS), AfterValidator(_require_unicode)]
Number = Annotated[float, Field(allow_inf_nan=False, ge=-MAX_NUMBER, le=MAX_NUMBER)]
GivenNumbers = Annotated[
    list[Number], Field(min_length=1, max_length=MAX_DIMENSIONS), AfterValidator(_check_vector)
]
FilterValues = Annotated[list[FilterValue], Field(min_length=1, max_length=MAX_VALUES)]
Marked = Annotated[list[str], Field(max_length=MAX_MARKED)]


class Body(BaseModel):
    """The base of what clients send: no unknown keys, no strings for numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class FilterBody(Body):
    """What the answers must be."""

    source: FilterValues | None = None
    category: FilterValues | None = None
    split: FilterValues | None = None
    width_px: NaturalRange | None = None
    height_px: NaturalRange | None = None
    caption_chars: NaturalRange | None = None

    def to_filter(self) -> ItemFilter:
        """Return it as a store takes it; equal filters are equal."""
        values = ((name, getattr(self, name)) for name in VALUE_COLUMNS)
        ranges = ((name, getattr(self, name)) for name in RANGE_COLUMNS)
        return ItemFilter(
            tuple((name, tuple(sorted(set(given)))) for name, given in values if given),
            tuple((name, given[0], given[1]) for name, given in ranges if given),
        )


class SearchBody(Body):
    """One query: a text, a picture, an item of the index, or a vector, of which exactly one is given.

    Pictures of the index that were marked move it; those to be like can be the whole of it.
    """

    text: Words | None = None
    image: str | None = Field(None, description="a picture file in base64")
    image_id: str | None = None
    text_id: str | None = None
    text_vector: GivenNumbers | None = Field(None, description=GIVEN_WORDS.format("text"))
    image_vector: GivenNumbers | None = Field(None, description=GIVEN_WORDS.format("picture"))
    more: Marked = Field([], description="image_ids: answers should be more like these, also without a query")
    less: Marked = Field([], description="image_ids: answers should be less like these, and are none of them")
    of: Literal["images", "texts"] | None = Field(
        None, description="null: images ask texts, texts and more alone ask images"
    )
    k: Annotated[int, Field(ge=1)] = 20
    offset: Annotated[int, Field(ge=0, le=MAX_OFFSET)] = 0
    filter: FilterBody = FilterBody()
    rerank: bool = False
    simplify: bool = Field(True, description="read traditional characters as simplified ones")

    @model_validator(mode="after")
    def _check_query(self) -> "SearchBody":
        given = [name for name in QUERIES if getattr(self, name) is not None]
        if len(given) > 1 or not (given or self.more):
            listed = " and ".join((", ".join(QUERIES[:-1]), QUERIES[-1]))
            raise ValueError(f"one of {listed} is expected, got {', '.join(given) or 'none'}")
        if set(self.more) & set(self.less):
            raise ValueError("more and less share an image_id; leave it in one of them")
        return self


class AttentionBody(Body):
    """A picture of the index and a text."""

    image_id: str
    text: Words


class EmbedBody(Body):
    """Texts or pictures, in base64."""

    texts: Annotated[list[Words], Field(min_length=1, max_length=MAX_EMBEDDED)] | None = None
    images: Annotated[list[str], Field(min_length=1, max_length=MAX_EMBEDDED)] | None = None

    @model_validator(mode="after")
    def _check_one(self) -> "EmbedBody":
        if (self.texts is None) == (self.images is None):
            raise ValueError("either texts or images are expected")
        return self


class SessionBody(Body):
    """The token, to be kept in a cookie."""

    token: str


def describe_body(body: type[BaseModel], *, with_upload: bool = False) -> dict[str, Any]:
    """Return the part of an OpenAPI operation that describes its request; with_upload: it takes a form too."""
    schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
    definitions = schema.pop("$defs", {})
    for name, definition in definitions.items():  # whole, since FastAPI knows no components of ours
        schema = _inline(schema, f"#/components/schemas/{name}", definition)
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if with_upload:
        form = schema | {"properties": schema["properties"] | {"image": {"type": "string", "format": "binary"}}}
        content["multipart/form-data"] = {"schema": form}
    return {"requestBody": {"required": True, "content": content}}


def _inline(schema: Any, reference: str, definition: Any) -> Any:
    if isinstance(schema, dict):
        if schema.get("$ref") == reference:
            return definition
        return {key: _inline(value, reference, definition) for key, value in schema.items()}
    if isinstance(schema, list):
        return [_inline(value, reference, definition) for value in schema]
    return schema
