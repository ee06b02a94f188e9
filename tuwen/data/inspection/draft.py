"""A preset drafted for somebody's files: what differs from presets/photos.yaml, each value with its reason."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from tuwen.core.errors import UserError
from tuwen.core.presets import PRESETS, check_preset, compose_preset, format_value
from tuwen.data.formats.text_files import Reading
from tuwen.data.inspection.find_source import count_rows, find_source
from tuwen.data.inspection.measure_source import MAX_IMAGES, SourceStats, measure_source

TOKEN_STEP = 4  # max_tokens is a multiple of it
MIN_TOKENS, MAX_TOKENS = 16, 128
WANTED_TEST_IMAGES = 150  # with fewer, an interval of R@5 is wider than 15 points
WIDTH = 62  # at which a reason starts


def write_draft(
    place: Path, name: str, presets: Path = PRESETS, encoding: str | None = None
) -> tuple[Path, list[str]]:
    """Write presets/<name>.yaml for the files in `place`; return its path and what was seen of them, in lines.

    encoding: of the text files, as a person says. Raises UserError where the preset exists already, or the files
    are none of the forms that ingest reads.
    """
    path = presets / f"{name}.yaml"
    if not re.fullmatch("[a-z0-9][a-z0-9_-]*", name):
        raise UserError(f"--name {name!r}: expected small letters, digits, - and _; it names a file in {presets}/")
    if path.exists():
        raise UserError(f"{path} is there already; remove it, or choose another --name")
    source, why = find_source(place, encoding)
    measured = measure_source(source)
    if not measured.captions or not measured.images:
        raise UserError(f"{place}: {measured.images} pictures, {measured.captions} captions; both are needed")
    if measured.faulty == measured.images:
        raise UserError(
            f"{place}: none of the first {measured.images} pictures can be opened, such as "
            f"{measured.first_fault}; mend the pictures or what names them"
        )
    readings = list[Reading]()
    rows = count_rows(source, readings)
    path.write_text(_format_preset(place, source, why, measured), encoding="utf-8")
    try:
        check_preset(compose_preset(name, presets))
    except UserError:
        path.unlink()
        raise
    return path, _describe(source, why, measured, rows, readings or measured.readings)


def _describe(
    source: dict[str, Any], why: str, measured: SourceStats, rows: int | None, readings: list[Reading]
) -> list[str]:
    """Return what was seen, a line each."""
    looked = "all" if measured.whole else f"the first {MAX_IMAGES}"
    short, tokens = measured.short_px, measured.tokens
    sides = f"short sides {_spread(short)} px" if len(short) else "none could be opened"
    return [
        f"{source['kind']}: {why}",
        *map(_describe_reading, readings),
        *([f"rows: {rows}"] if rows is not None else []),
        f"pictures ({looked} looked at): {measured.images}, {measured.faulty} missing or unreadable"
        f"{f' ({measured.first_fault})' if measured.first_fault else ''}; {sides}",
        f"captions: {measured.captions}, {measured.chinese} with Chinese characters; {_spread(tokens)} tokens",
        f"captions that come again: {measured.repeated}; with left or right: {measured.side_words}",
    ]


def _describe_reading(reading: Reading) -> str:
    cells = f", cells divided by {reading.delimiter!r}" if reading.delimiter else ""
    quotes = {"none": ", no quotes", "quoting": ", quotes enclose cells", "text": ", quotes are text"}
    return f"{Path(reading.file).name}: {reading.encoding}{cells}{quotes.get(reading.quotes, '')}"


def _spread(values: Any) -> str:
    low, middle, high = (int(value) for value in np.percentile(values, (1, 50, 99)))
    return f"{low} to {high}, median {middle}"


def _format_preset(place: Path, source: dict[str, Any], why: str, measured: SourceStats) -> str:
    lines = [f"# Drafted for {place.as_posix()} by `tuwen init`; `tuwen params --preset NAME` prints the whole."]
    lines += ["extends: photos", ""]
    lines += [f"source:  # {why}", *(f"  {key}: {format_value(value)}" for key, value in source.items()), ""]
    lines += [line for group in _choose(measured) for line in (*_format_group(*group), "")]
    return "\n".join(lines).rstrip("\n") + "\n"


def _format_group(name: str, values: list[tuple[str, Any, str]]) -> list[str]:
    return [f"{name}:", *(f"{f'  {key}: {format_value(value)}':<{WIDTH}}# {why}" for key, value, why in values)]


def _choose(measured: SourceStats) -> list[tuple[str, list[tuple[str, Any, str]]]]:
    """Return (group of params, its keys with value and reason)."""
    tokens, chars, images = measured.tokens, measured.chars, measured.images
    wanted = int(np.ceil(np.percentile(tokens, 99, method="higher") / TOKEN_STEP) * TOKEN_STEP)
    max_tokens = min(max(wanted, MIN_TOKENS), MAX_TOKENS)
    longer = int((tokens > max_tokens).sum())
    cut = f"{longer} of {len(tokens)} captions are longer for a fresh model, up to {tokens.max()}"
    max_chars = max(200, int(np.percentile(chars, 99.9)))
    small, large = int((measured.short_px < 32).sum()), int((measured.pixels > 100_000_000).sum())
    test = min(max(round(WANTED_TEST_IMAGES / images, 2), 0.05), 0.3)
    valid = round(test / 2, 3)
    at_least = "" if measured.whole else "at least "
    batch = 256 if images > 2000 else 128 if images > 100 else 64
    per_batch = f"of {at_least}{round(images * (1 - test - valid))} training pictures"
    return [
        (
            "validate",
            [
                ("min_side_px", 32, f"{small} of {len(measured.short_px)} pictures are smaller"),
                ("max_pixels", 100_000_000, f"{large} are larger"),
                ("max_chars", max_chars, f"{int((chars > max_chars).sum())} captions are longer"),
            ],
        ),
        (
            "split",
            [
                ("valid", valid, f"about {round(images * valid)} of {at_least}{images} pictures"),
                (
                    "test",
                    test,
                    f"about {round(images * test)}; below {WANTED_TEST_IMAGES}, R@5 is vague",
                ),
            ],
        ),
        ("text", [("max_tokens", max_tokens, cut)]),
        ("finetune", [("fit", {"batch_size": batch}, f"{per_batch}, eight views each")]),
    ]
