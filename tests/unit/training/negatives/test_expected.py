"""What a batch is said to hold, against every batch there is, and against the loss itself."""

import math
from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.support.training import fit
from tuwen.training.loss import compare_ids, compute_contrastive_loss
from tuwen.training.negatives.expected import Names, find_standstill, measure_batch, number_names, report_batch

# 0, 1 and 2 are of one picture, 2, 3 and 4 have one caption, 5 and 6 share both, 7 stands alone
NAMES = Names(np.array([0, 0, 0, 1, 2, 3, 3, 4]), np.array([0, 1, 2, 2, 2, 3, 3, 4]))


def count_in_every_batch(batch_size: int) -> dict[str, tuple[float, float, float]]:
    """Return of both relations: others in the batch, whether there are any, and log(1 + others), in the mean."""
    same_caption = NAMES.caption_id[:, None] == NAMES.caption_id
    related = same_caption | (NAMES.positive_id[:, None] == NAMES.positive_id)
    counted = {}
    for name, relation in (("caption", same_caption), ("sibling", related)):
        batches = combinations(range(8), batch_size)
        met = np.concatenate([relation[np.ix_(rows, rows)].sum(1) - 1 for rows in map(list, batches)])
        counted[name] = (met.mean(), (met > 0).mean(), np.log1p(met).mean())
    return counted


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 8])
def test_it_is_the_mean_over_all_batches(batch_size: int) -> None:
    counted = count_in_every_batch(batch_size)
    positives = measure_batch(NAMES, batch_size, "positives")
    assert positives == pytest.approx(
        {
            **{"distinct_captions": 5.0, "equal_captions": counted["caption"][1]},
            **{"siblings_per_row": counted["sibling"][0], "false_negatives_per_row": 0.0},
            "lowest_loss": counted["sibling"][2],
        },
        abs=1e-12,
    )
    negatives = measure_batch(NAMES, batch_size, "negatives")
    changed = {"false_negatives_per_row": counted["sibling"][0], "lowest_loss": counted["caption"][2]}
    assert negatives == pytest.approx(positives | changed, abs=1e-12)
    apart = measure_batch(NAMES, batch_size, "apart")
    assert apart == dict.fromkeys(positives, 0.0) | {"distinct_captions": 5.0}


@pytest.mark.parametrize("siblings", ["positives", "negatives"])
def test_a_model_that_knows_every_class_stands_at_the_lowest_loss(siblings: str) -> None:
    classes = torch.arange(12) % 3
    vectors = torch.eye(3)[classes]
    positive = compare_ids(classes, classes) if siblings == "positives" else torch.eye(12, dtype=torch.bool)
    loss = compute_contrastive_loss(vectors, vectors, torch.tensor(100.0), positive).item()
    facts = measure_batch(Names(np.arange(12), classes.numpy()), 12, siblings)
    assert facts["lowest_loss"] == pytest.approx(math.log(4)) == pytest.approx(loss, abs=1e-6)


def test_captions_that_the_model_reads_alike_are_equal() -> None:
    table = pa.table({"positive_id": ["b", "a", "b"], "caption": ["龍貓公仔", "龙猫公仔", "红色的碗"]})
    assert [column.tolist() for column in number_names(table, simplify=True)] == [[0, 1, 0], [0, 0, 1]]
    assert number_names(table, simplify=False).caption_id.tolist() == [0, 1, 2]


def test_ten_classes_are_warned_of_with_the_floor_and_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    """As 50,000 pictures of ten classes, whose name is the caption: the loss stands at log 12.8 and a little."""
    classes = Names(np.arange(50_000), np.arange(50_000) % 10)
    logged: list[tuple[dict[str, float], int]] = []
    blind = fit(batch_size=128, siblings="negatives")
    facts = report_batch(classes, blind, lambda record, step: logged.append((dict(record), step)))
    shown = capsys.readouterr()
    assert facts["false_negatives_per_row"] == pytest.approx(127 * 4999 / 49_999, abs=1e-6)
    assert math.log(12.8) < facts["lowest_loss"] < math.log(13.8)
    assert logged == [({f"batch_{name}": value for name, value in facts.items()}, 0)]
    assert (
        "a batch of 128: 100 % of its rows meet an equal caption; 12.7 siblings a row, 12.7 of them" in shown.out
    )
    assert "50000 rows have 10 different captions: a batch of 128 cannot bring the loss below 2.59" in shown.err
    assert "of 4.85 nats; take siblings: positives" in shown.err
    assert "smaller batch" in find_standstill(facts, 50_000, fit(batch_size=128))


def test_rich_captions_are_no_reason_to_warn_and_unknown_ones_are_said_to_be(
    capsys: pytest.CaptureFixture[str],
) -> None:
    views = Names(np.arange(4000) // 8, np.arange(4000) // 8)
    report_batch(views, fit(batch_size=128), lambda *_: None)
    assert "siblings a row" in capsys.readouterr().out
    assert report_batch(None, fit(), lambda *_: None) == {}
    shown = capsys.readouterr()
    assert "is not known: shards that are streamed" in shown.out
    assert shown.err == ""


def test_the_floor_is_left_out_where_another_loss_is_trained() -> None:
    assert "lowest_loss" not in report_batch(NAMES, fit(batch_size=4), lambda *_: None, softmax=False)
