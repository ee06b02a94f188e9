"""What both reports say of vectors in fewer bytes: what each form of a gallery saves, and its cost in recall."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tuwen.data.formats.directions import DIRECTIONS
from tuwen.evaluation.details import KeptForm
from tuwen.evaluation.metric import format_number
from tuwen.evaluation.models import MODELS, SHIPPED
from tuwen.evaluation.results import Results
from tuwen.report.tables import format_table
from tuwen.retrieval.quantised.recall import SIGNS_ALONE

SHOWN_KS = (1, 5)
MANY = 100_000_000
TITLES = {"binary": "binary, then int8", SIGNS_ALONE: "binary alone"}
SMALL_VECTORS_NOTE = (
    "What a gallery's vectors may be kept as (params.yaml: embed.dtype), measured on test from the float32 ones; "
    "a query is always float32. Read: by a search, also in GB of 100 million. In brackets the change in points. "
    "Searches of float32, float16 and int8 are exact over what is kept; binary finds candidates by signs, four "
    "for each of the most answers measured here, and orders them by int8. The larger a gallery, the more true "
    "items are no candidates. Fewer dimensions are the first ones, of a model trained with fit.matryoshka."
)


class SmallVectorsSection(NamedTuple):
    """The section, for both reports."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str | int, ...]]
    note: str = SMALL_VECTORS_NOTE


def collect_small_vectors(measured: Results, ks: Sequence[int]) -> SmallVectorsSection | None:
    """Return the section about the shipped model; None where it was measured by older code."""
    by_direction = measured[SHIPPED].details.small_vectors
    if by_direction is None:
        return None
    shown = [k for k in ks if k in SHOWN_KS]
    hits = [f"{direction.name.upper()} R@{k}, %" for direction in DIRECTIONS.values() for k in shown]
    rows: list[tuple[str | int, ...]] = []
    for number, form in enumerate(by_direction["t2i"]):
        sizes = (form.dims, form.searched, form.kept, f"{form.searched * MANY / 1e9:.1f}")
        cells = [
            _format_hit(by_direction[name][0], by_direction[name][number], k) for name in DIRECTIONS for k in shown
        ]
        rows.append((TITLES.get(form.dtype, form.dtype), *sizes, *cells))
    columns = ("kept as", "dimensions", "bytes read", "bytes kept", "GB of 100M", *hits)
    return SmallVectorsSection(f"Vectors in fewer bytes, {MODELS[SHIPPED].title} model", columns, rows)


def _format_hit(whole: KeptForm, form: KeptForm, k: int) -> str:
    name = f"hit_at_{k}"
    share = f"{100 * form.hits[name]:.1f}"
    change = format_number(100 * (form.hits[name] - whole.hits[name]), "+.1f")
    return share if form is whole else f"{share} [{change}]"


def format_small_vectors(facts: Mapping[str, Any]) -> list[str]:
    """Return the section of report.md from the facts that report.py collects; none of older results."""
    section = facts["small_vectors"]
    if section is None:
        return []
    return [f"## {section.title}", "", *format_table(section.columns, section.rows), "", section.note]
