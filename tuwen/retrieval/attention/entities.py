"""The entities of a caption: its nouns, as the segmenter finds them."""

from typing import NamedTuple

from tuwen.data.formats.text import MASK

NOUN_TAGS = ("n", "j", "s")  # how jieba's tags of nouns and names, of abbreviations, and of places begin


class Entity(NamedTuple):
    """A word of a caption, and where it stands there: first character and the one after the last, each time."""

    word: str
    spans: tuple[tuple[int, int], ...]


def list_entities(caption: str) -> list[Entity]:
    """Return the nouns of `caption` in the order in which they first stand there, each once.

    A mask such as <人名> is one, as it stands for a name. Latin words have no tag of their kind, so none is one.
    """
    import rjieba  # as sides.py: not needed to load a model

    spans: dict[str, list[tuple[int, int]]] = {}
    for start, part, is_mask in _split_masks(caption):
        words = [(part, "n")] if is_mask else rjieba.tag(part, hmm=True)
        for word, tag in words:
            if tag.startswith(NOUN_TAGS):
                spans.setdefault(word, []).append((start, start + len(word)))
            start += len(word)
    return [Entity(word, tuple(places)) for word, places in spans.items()]


def _split_masks(caption: str) -> list[tuple[int, str, bool]]:
    """Cut a caption at its masks: where each part begins, the part, and whether it is a mask."""
    parts, end = [], 0
    for match in MASK.finditer(caption):
        parts += [(end, caption[end : match.start()], False), (match.start(), match[0], True)]
        end = match.end()
    return [*parts, (end, caption[end:], False)]
