"""Equal captions of the dealt sets: the rows that a merge took, and what of valid and test stands in train too."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tuwen.data.formats import pairs
from tuwen.data.quality import suites
from tuwen.data.quality.split import SPLITS, find_first_texts

if TYPE_CHECKING:
    from tuwen.data.quality.examined_table import ExaminedTable
    from tuwen.data.quality.quarantine import ExaminedSet

Parts = Mapping[str, pairs.PairSet]  # split -> its pairs
HELD_OUT_SETS = ("valid", "test")


def label_merged_rows(labelled: "ExaminedSet", parts: Parts, composed: Parts) -> None:
    """List the texts and pairs of valid and test that equal ones took in, each with the row that did.

    parts: the splits as dealt out; composed: as they are written. A text that another split keeps is not gone.
    """
    texts, links = dict[str, str](), dict[str, str]()
    for name in HELD_OUT_SETS:
        first = find_first_texts(parts[name].texts)
        kept = composed[name].pairs.select(["image_id", "text_id", "pair_id"]).to_pylist()
        pair_of = {
            (row["image_id"], row["text_id"]): row["pair_id"].removesuffix(f"~{row['text_id']}") for row in kept
        }
        texts |= {text_id: other for text_id, other in first.items() if text_id != other}
        for row in parts[name].pairs.to_pylist():
            links[row["pair_id"]] = pair_of[row["image_id"], first[row["text_id"]]]
    for table, into in ((labelled.texts, texts), (labelled.links, links)):
        key = table.frame.columns[0]
        kept_ids = {id_ for name in SPLITS for id_ in getattr(composed[name], table.name)[key].to_pylist()}
        _note_merged(table, {id_: other for id_, other in into.items() if id_ not in kept_ids})


def _note_merged(table: "ExaminedTable", into: Mapping[str, str]) -> None:
    label = _label_by_id(table)
    words = table.describe_rows([label[other] for other in into.values()])
    table.note_merged({label[id_]: word for id_, word in zip(into, words, strict=True)})


def _label_by_id(table: "ExaminedTable") -> dict[str, Any]:
    return dict(zip(table.frame.iloc[:, 0], table.frame.index, strict=True))


def measure_overlap(
    labelled: "ExaminedSet", composed: Parts, corpus: "Mapping[str, ExaminedSet]"
) -> dict[str, dict[str, float]]:
    """Return of valid and test how many captions there are, and how many stand in train and in the corpus too.

    Captions count once, by their normalised form, and only where they fit an image. Each text whose caption stands
    in train is listed with the first one there, and stays.
    """
    frame = labelled.texts.frame
    form_of = dict(zip(frame["text_id"], frame["normalised"], strict=True))
    texts = {
        name: pairs.select_true_pairs(part)["text_id"].unique().to_pylist() for name, part in composed.items()
    }
    in_train: dict[str, str] = {}
    for text_id in texts["train"]:
        in_train.setdefault(form_of[text_id], text_id)
    held_out = {text_id for name in HELD_OUT_SETS for text_id in texts[name]}
    _note_seen(
        labelled.texts,
        {text_id: in_train[form_of[text_id]] for text_id in sorted(held_out) if form_of[text_id] in in_train},
    )
    in_corpus, summary = set[str](), {}
    for one in corpus.values():  # millions of captions, of which few are looked for
        column = one.texts.clean["normalised"]
        in_corpus |= set(column[column.isin([form_of[text_id] for text_id in held_out])])
    for name in HELD_OUT_SETS:
        forms = {form_of[text_id] for text_id in texts[name]}
        seen, known = len(forms & in_train.keys()), len(forms & in_corpus)
        share = round(seen / max(len(forms), 1), 4)
        summary[name] = {"captions": len(forms), "in_train": seen, "in_train_share": share, "in_corpus": known}
    return summary


def _note_seen(table: "ExaminedTable", seen: Mapping[str, str]) -> None:
    """Report the texts whose caption stands in train; seen: text -> the first one there."""
    label = _label_by_id(table)
    labels = [label[text_id] for text_id in seen]
    table.frame["caption_in_train"] = False
    table.frame.loc[labels, "caption_in_train"] = True
    table.examine(suites.build_seen_suite())
    words = table.describe_rows([label[other] for other in seen.values()])
    table.note_staying("caption_in_train", dict(zip(labels, words, strict=True)))
