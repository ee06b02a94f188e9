"""What `predict` corrects its answers by: QB-Norm with the answering model's bank, as valid chose it."""

import json
from pathlib import Path

from tuwen.core.errors import UserError
from tuwen.data.formats import pairs
from tuwen.retrieval import qb_norm
from tuwen.retrieval.vectors import Vectors, read_vectors

ASKING = {"t2i": "texts", "i2t": "images"}


def read_correction(
    embeddings: Path, clean: Path, chosen: Path, direction: str, gallery: Vectors
) -> qb_norm.Correction:
    """What the bank of train says of a task's gallery [G, D]; direction: t2i or i2t.

    embeddings: folder of the answering model, with `bank`; chosen: details.json of the model that was measured,
    whose temperature holds for its refit too. Raises UserError for a bank that is missing or unsound.
    """
    side = ASKING[direction]
    table = clean / "bank" / f"{side}.parquet"
    bank = read_vectors(embeddings / "bank" / f"{side}.npy", pairs.read_table(table).num_rows, table)
    if not len(bank):
        raise UserError(f"{table}: no rows, so nothing corrects; set predict.correction to none (params.yaml)")
    return qb_norm.compute_correction(bank, gallery, _beta(chosen, direction))


def _beta(chosen: Path, direction: str) -> float:
    try:
        return float(json.loads(chosen.read_text(encoding="utf-8"))["qbnorm"][direction]["beta"])
    except FileNotFoundError:
        raise UserError(f"{chosen}: missing; run `dvc repro`") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{chosen}: no temperature for {direction} ({error!r}); run `dvc repro`") from None
