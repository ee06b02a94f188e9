"""Which members of a WebDataset tar belong together: the convention's keys, and names that have dots of their own.

By the convention the key is the name up to its first dot, and the rest the field: x.seg.png is "seg.png" of x. But
iPhone6.7寸-060.jpg and iPhone6.7寸-061.jpg are two pictures. So an image and a caption belong together where their
names are equal but for the extension; else where they are equal but for a last part that names the field, as in
3.image.jpg and 3.caption.txt; and never otherwise. What is left of x beside an image of x is another field of it.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import groupby
from typing import NamedTuple

from tuwen.core.errors import UserError
from tuwen.data.formats.image_files import IMAGE_EXTENSIONS

CAPTION_KINDS = frozenset({"txt", "json"})
# Words of a field that is the image, or a caption, of its key. Others (seg, mask, depth; tags, meta) are fields
# beside it: a pair made of them would be wrong without anybody noticing.
IMAGE_WORDS = frozenset({"color", "image", "img", "input", "photo", "pic", "picture", "rgb"}) | IMAGE_EXTENSIONS
CAPTION_WORDS = IMAGE_EXTENSIONS | {"alt", "cap", "caption", "captions", "desc", "description", "prompt", "text"}
CAPTION_WORDS |= {"title", "txt", "chinese", "cn", "zh", "english", "en"}  # an extension, too: 1.jpg.txt
FIELD = re.compile(r"[A-Za-z_]+[0-9]*")
MOST_FIELDS = 64  # members under one first part that are held together, at most ...
MOST_FIELD_BYTES = 1 << 28  # ... and their bytes: above either they are no fields of one key


class TarPart(NamedTuple):
    """One member of a tar."""

    name: str  # as it is in the tar
    stem: tuple[str, ...]  # the name without its extension, parted at its dots; the folder is in the first part
    kind: str  # "image", or the extension in lower case
    size: int = 0  # bytes, also where they were not read
    data: bytes = b""
    fault: str | None = None  # `pairs.FAULTS`


class KeyedParts(NamedTuple):
    """The members of one key: its image and its captions, or the fault of one of them."""

    key: str
    image: TarPart | None
    captions: list[TarPart]
    fault: str | None = None


def group_parts(parts: Iterable[TarPart], tar: str, left_over: Counter[str]) -> Iterator[KeyedParts]:
    """Yield the keys of a tar in the order of their first members: each image and caption is in one of them.

    Of the tar only neighbours are held. left_over: field -> members that are in no key, counted up. A key that
    comes again is named key@n, the n-th of the tar. Raises UserError that names tar and members where one caption
    fits two images, and where the image and the caption of a key stand apart.
    """
    halves: dict[str, str] = {}  # key -> the name of its image or caption where the other half was not beside it
    seen = set[str]()
    keyed = (
        one for run in _list_runs(parts) for once in _split_repeats(run) for one in _join(once, tar, left_over)
    )
    for number, one in enumerate(keyed, 1):
        half = "" if one.fault or (one.image and one.captions) else "image" if one.image else "caption"
        if half and {half, halves.get(one.key)} == {"image", "caption"}:
            raise UserError(
                f"{tar}: the picture and the caption of {one.key!r} stand apart (member {_names(one)}), as in no "
                "WebDataset; pack the tar anew with its members sorted, such as by `tar --sort=name`"
            )
        yield one if one.key not in seen else one._replace(key=f"{one.key}@{number}")
        if one.key not in seen:
            seen.add(one.key)
            halves |= {one.key: half} if half else {}


def _names(one: KeyedParts) -> str:
    return ", ".join(part.name for part in (one.image, *one.captions) if part)


def _list_runs(parts: Iterable[TarPart]) -> Iterator[list[TarPart]]:
    """Yield neighbours with the same first part; where these are too many for one key, with more parts alike."""
    run, depth = list[TarPart](), 1
    for part in parts:
        if run and part.stem[0] != run[-1].stem[0]:
            yield run
            run, depth = [], 1
        elif run and part.stem[:depth] != run[-1].stem[:depth]:
            yield run
            run = []
        run.append(part)
        while len(run) > MOST_FIELDS or sum(one.size for one in run) > MOST_FIELD_BYTES:
            depth += 1
            *done, run = ([*one] for _, one in groupby(run, partial(_get_start, depth)))
            if not done and depth > len(part.stem):
                done, run = [run], []
            yield from done
    if run:
        yield run


def _get_start(depth: int, part: TarPart) -> tuple[str, ...]:
    return part.stem[:depth]


def _split_repeats(run: list[TarPart]) -> Iterator[list[TarPart]]:
    """Yield the run in pieces: a member whose name came before begins a new one, as in tars that were joined."""
    piece = dict[str, TarPart]()
    for part in run:
        if part.name in piece:
            yield [*piece.values()]
            piece = {}
        piece[part.name] = part
    yield [*piece.values()]


def _join(parts: list[TarPart], tar: str, left_over: Counter[str]) -> Iterator[KeyedParts]:
    images = {part.stem for part in parts if part.kind == "image"}
    texts = {part.stem for part in parts if part.kind in CAPTION_KINDS}
    keys: dict[tuple[str, ...], list[TarPart]] = {}
    for part in parts:
        if part.kind == "image":
            keys.setdefault(_find_key(part.stem, texts, IMAGE_WORDS), []).append(part)
        elif part.kind in CAPTION_KINDS:
            keys.setdefault(_find_key(part.stem, images, CAPTION_WORDS), []).append(part)
        elif part.fault:
            keys.setdefault(part.stem, []).append(part)
        else:
            left_over[f".{part.kind}"] += 1
    pictured = {key for key, members in keys.items() if any(part.kind == "image" for part in members)}
    for key, members in keys.items():
        field = _find_field(key, pictured - {key})
        whole = {part.kind == "image" for part in members} == {True, False}
        if field and not whole and not any(part.fault for part in members):
            left_over.update(f".{field}{part.name[part.name.rindex('.') :]}" for part in members)
        else:
            yield from _make_keyed(".".join(key), members, tar)


def _find_key(stem: tuple[str, ...], others: set[tuple[str, ...]], words: frozenset[str]) -> tuple[str, ...]:
    """Return the stem, without its last part if that is one of `words`; others: stems of the other kind."""
    if len(stem) > 1 and stem not in others and FIELD.fullmatch(stem[-1]):
        said = re.findall("[a-z]+", stem[-1].lower())
        return stem[:-1] if words.intersection(said) else stem
    return stem


def _find_field(key: tuple[str, ...], pictured: set[tuple[str, ...]]) -> str | None:
    """Return what of the key is a field of a shorter one that has an image."""
    for length in range(len(key) - 1, 0, -1):
        if not FIELD.fullmatch(key[length]):
            return None
        if key[:length] in pictured:
            return ".".join(key[length:])
    return None


def _make_keyed(key: str, members: list[TarPart], tar: str) -> Iterator[KeyedParts]:
    images = [part for part in members if part.kind == "image"]
    captions = [part for part in members if part.kind in CAPTION_KINDS]
    if fault := next((part.fault for part in members if part.fault), None):
        yield KeyedParts(key, None, [], fault)
    elif len(images) > 1 and captions:
        names = ", ".join(part.name for part in members)
        raise UserError(
            f"{tar}: several pictures of the key {key!r} have one caption: {names}; give each picture a name of "
            "its own, with its caption beside it under the same name"
        )
    else:
        yield KeyedParts(key, images[0] if images else None, captions)
        yield from (KeyedParts(key, image, []) for image in images[1:])
