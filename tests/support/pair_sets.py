"""The empty pair set: what a source writes for a set that it lacks."""

from tuwen.data.formats.pairs import IMAGES, PAIRS, TEXTS, PairSet

EMPTY_SET = PairSet(IMAGES.empty_table(), TEXTS.empty_table(), PAIRS.empty_table())
