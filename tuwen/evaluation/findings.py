"""What `evaluate` wrote beside its figures, read for the report: details.json and zero_shot.json.

Both are checked as they are read, so that a file of another version is refused by its place and not by a template.
"""

from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from tuwen.core.errors import UserError
from tuwen.data.formats.json_file import read_json

T = TypeVar("T")


class Read(BaseModel):
    """A part of a file: further keys are none of the report's business."""

    model_config = ConfigDict(strict=True, frozen=True)


class Directions(Read, Generic[T]):
    """One thing for each direction."""

    t2i: T
    i2t: T


class Scores(Read):
    """Cosines of true and of false pairs, counted between n + 1 edges."""

    edges: list[float]
    true: list[int]
    false: list[int]

    @model_validator(mode="after")
    def _a_count_between_two_edges(self) -> "Scores":
        if not len(self.true) == len(self.false) == len(self.edges) - 1:
            raise ValueError(
                f"{len(self.edges)} edges for {len(self.true)} true and {len(self.false)} false counts"
            )
        if not sum(self.true):
            raise ValueError("no true pair is counted")
        return self


class Hub(Read):
    """An item of the gallery, and of how many queries it is among the first k answers."""

    id: str
    times: int


class Hubs(Read):
    """The items that answer most often, the most frequent first."""

    k: int
    top: list[Hub]


class Details(Read):
    """details.json: all of it is about the test set."""

    gallery_curve: Directions[list[dict[str, float]]]  # points: gallery, hit_at_1, hit_at_5, …
    score_histogram: Scores
    hubs: Directions[Hubs]


class Top(Read):
    """Shares of the pictures whose class is the first, and among the first five."""

    top_1: float
    top_5: float


class OfClass(Read):
    """One class: its pictures and the share of them that is recognised."""

    name: str
    pictures: int
    top_1: float

    @model_validator(mode="before")
    @classmethod
    def _class_is_no_python_name(cls, body: Any) -> Any:
        return {**body, "name": body.get("class")} if isinstance(body, dict) else body


class ZeroShot(Read):
    """zero_shot.json: the test pictures classified by the names of their categories; without any, all is empty."""

    classes: list[str]
    pictures: int
    one_prompt: Top
    ensemble: Top
    per_class: list[OfClass]
    confusion: list[list[int]]  # true class x predicted class

    @model_validator(mode="after")
    def _one_row_and_column_for_each_class(self) -> "ZeroShot":
        number = len(self.classes)
        if len(self.confusion) != number or any(len(row) != number for row in self.confusion):
            raise ValueError(f"confusion must have {number} rows of {number} counts, one for each class")
        if sorted(one.name for one in self.per_class) != sorted(self.classes):
            raise ValueError("per_class must name each of the classes once")
        return self

    @property
    def largest_share(self) -> float:
        """Share of the pictures that belong to the largest class: what naming it always would score."""
        return max((one.pictures for one in self.per_class), default=0) / max(1, self.pictures)


Model = TypeVar("Model", bound=Read)


def read_checked(path: Path, kind: type[Model]) -> Model:
    """The file as `kind`. Raises UserError when it is missing or not of that form."""
    body = read_json(path)
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{path}: {place + ': ' if place else ''}{first['msg'].lower()}; remove it and run `dvc repro`"
        ) from None
