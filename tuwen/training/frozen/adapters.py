"""Heads over vectors that another program made: the baseline without them, and their training, minutes on a CPU.

The loop, the loss and the choice on valid are those of every training; a batch has vectors in place of pixels and
token ids. Views are not needed, since vectors are of whole pictures and captions.
Shapes: P pairs, D dimensions.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tuwen.core.errors import UserError
from tuwen.data.formats import pairs, pinned
from tuwen.data.formats.json_file import write_json
from tuwen.data.formats.text import normalise_captions
from tuwen.model import adapter, device
from tuwen.model.precision import choose_precision
from tuwen.training import distributed, trainer
from tuwen.training.loader import Batch
from tuwen.training.negatives.expected import Names, report_batch
from tuwen.training.runner import Log, describe_machine, set_prefixes
from tuwen.training.selection import Choice, Measured
from tuwen.training.validation import measure_vectors

if TYPE_CHECKING:
    from tuwen.core.params import Embeddings, Fit

SHA256_PLACE = "params.yaml: baseline.start.sha256"


class PairColumns(NamedTuple):
    """The true pairs of some sets: vectors of both sides [P, D], and integers by which pairs are siblings [P]."""

    image: Tensor
    text: Tensor
    positive_id: Tensor
    caption_id: Tensor
    pair_ids: tuple[str, ...]


def write_vector_baseline(start: "Embeddings", clean: Path, out: Path) -> None:
    """Write the vectors that `start` pins as a model without trained heads, measured once on valid.

    Raises UserError where they are not the pinned ones, not sound, or lack ids of valid.
    """
    folder = Path(start.folder)
    given = adapter.read_given(folder)
    found = pinned.hash_listing([folder / name for name in adapter.GIVEN_FILES])
    if found != start.sha256:
        raise UserError(f"{SHA256_PLACE}: expected that of {folder}, {found}, got {start.sha256}")
    heads = adapter.Adapter(given.images.vectors.shape[1])
    adapter.save_adapter(heads, folder, out)
    measured = _make_validator(clean / "valid", given)(heads.to(device.choose_device()))
    valid = {name: round(value, 6) for name, value in measured.figures.items()}
    write_json(
        out / "training.json", {"pairs": 0, "steps": 0, "valid": valid, "ran": describe_machine(), "epochs": []}
    )


def train_adapter(
    clean: Path,
    splits: Sequence[str],
    baseline: Path,
    out: Path,
    fit: "Fit",
    seed: int,
    checkpoint: Path,
    log: Log,
    *,
    chosen: Choice | None = None,
    facts: Mapping[str, Any] = MappingProxyType({}),
) -> bool:
    """Train heads over the vectors in `baseline` on the pairs of `splits` and write them to `out`.

    chosen: the state to take without measuring. facts: more entries of training.json. Returns whether this
    process, the first one, wrote them. Raises UserError where an id has no vector.
    """
    if fit.siblings == "apart" or fit.sigmoid or (fit.distil and fit.distil.fgd):
        raise UserError(
            "params.yaml: finetune.fit: over vectors siblings must not be apart, sigmoid false, and distil.fgd 0"
        )
    given, heads = adapter.read_given(baseline), adapter.load_adapter(baseline)
    columns = _read_columns([clean / name for name in splits], given)
    steps = len(columns.image) // fit.batch_size
    names = Names(columns.positive_id.numpy(), columns.caption_id.numpy())
    batch = report_batch(names, fit, log, softmax=not fit.distil) if distributed.is_first() else {}
    validate = _skip_measuring if chosen else _make_validator(clean / "valid", given)
    training = trainer.train(
        heads,
        _make_batches(columns, fit.batch_size, steps, seed),
        steps,
        fit,
        seed=seed,
        checkpoint=checkpoint,
        evaluate=validate,
        log=log,
        until=chosen.epoch if chosen else None,
    )
    if not distributed.is_first():
        return False
    before, candidates = adapter.load_adapter(baseline).state_dict(), list[dict[str, Any]]()
    if chosen:
        training.take_choice(chosen, before)
    else:
        chosen, candidates = training.select(before, validate)
    set_prefixes(heads.config, fit.matryoshka)
    adapter.save_adapter(heads, baseline, out)
    body = {"pairs": len(columns.image), "steps": steps * training.epochs, **facts, "batch": batch}
    body |= {"selected": chosen.describe(), "candidates": candidates}
    body |= {"ran": {"precision": choose_precision(fit.precision)} | describe_machine()}
    write_json(out / "training.json", body | {"epochs": training.records})
    return True


def _skip_measuring(heads: Any) -> Measured:
    return Measured({}, np.zeros(0))


def _make_validator(folder: Path, given: adapter.Given) -> Any:
    """Return a function that measures heads on the set in `folder`."""
    tables = pairs.read_pair_set(folder)
    image_row, text_row = pairs.find_true_rows(tables)
    image_ids, text_ids = tables.images["image_id"].to_pylist(), tables.texts["text_id"].to_pylist()

    def measure(heads: adapter.Adapter) -> Measured:
        return measure_vectors(*adapter.embed_given(heads.eval(), given, image_ids, text_ids), image_row, text_row)

    return measure


def _read_columns(folders: Sequence[Path], given: adapter.Given) -> PairColumns:
    image_ids, text_ids, positive, captions, names = [list[str]() for _ in range(5)]
    for folder in folders:
        tables = pairs.read_pair_set(folder)
        image_row, text_row = pairs.find_true_rows(tables)
        image_ids += tables.images["image_id"].take(image_row).to_pylist()
        positive += tables.images["positive_id"].take(image_row).to_pylist()
        text_ids += tables.texts["text_id"].take(text_row).to_pylist()
        captions += tables.texts["caption"].take(text_row).to_pylist()
        names += pairs.select_true_pairs(tables)["pair_id"].to_pylist()
    return PairColumns(
        torch.from_numpy(given.images.take(image_ids)),
        torch.from_numpy(given.texts.take(text_ids)),
        _number(positive),
        _number(normalise_captions(captions, simplify=False)),
        tuple(names),
    )


def _number(names: Sequence[str]) -> Tensor:
    """Return equal integers for equal names, [P]."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([numbers[name] for name in names])


def _make_batches(columns: PairColumns, batch_size: int, steps: int, seed: int) -> trainer.Batches:
    """Return what gives an epoch's batches: pairs in an order that seed and epoch decide, this process's share."""
    share = batch_size // distributed.count_ranks()

    def load(epoch: int, first_step: int) -> Iterator[Batch]:
        order = torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(len(columns.image)))
        for number in range(first_step, steps):
            start = number * batch_size + distributed.get_rank() * share
            rows = order[start : start + share]
            text = columns.text[rows]
            names = tuple(columns.pair_ids[row] for row in rows.tolist())
            ids = columns.positive_id[rows], columns.caption_id[rows]
            yield Batch(columns.image[rows], text, torch.ones_like(text, dtype=torch.long), *ids, names)

    return load
