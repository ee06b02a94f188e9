import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.vectors import unit
from tuwen.evaluation.hubness import compute_skewness, count_occurrences
from tuwen.retrieval import qb_norm, search
from tuwen.retrieval.metrics import compute_hits, judge_answers
from tuwen.retrieval.vectors import RetrievalTask


def hubby(queries, items=40, seed=0):
    """(queries, gallery, bank) in which item 0 is nearer to every query than the query's own item n + 1.

    All queries share a direction, which is item 0 itself; each adds a smaller part of its own item.
    """
    random = np.random.default_rng(seed)
    own = np.eye(items + 1, dtype=np.float32)
    gallery = own[[items, *range(items)]]
    asked = np.arange(queries) % items

    def asking(item):
        return unit(own[item] + 1.5 * own[items] + 0.05 * random.normal(size=(len(item), items + 1)))

    return asking(asked), gallery, asking(random.integers(items, size=400)), asked + 1


def mean_hit(task, answers, k):
    return compute_hits(judge_answers(task, answers, [k]), [k]).mean()


def by_definition(queries, gallery, bank, beta):
    """Inverted softmax as printed: exp(βs) over its sum over the bank, in float64."""
    scores, banked = (q.astype(np.float64) @ gallery.astype(np.float64).T for q in (queries, bank))
    return np.exp(beta * scores) / np.exp(beta * banked).sum(axis=0)


@pytest.mark.parametrize("beta", [1.0, 20.0, 50.0])
def test_one_dimension_more_ranks_as_the_inverted_softmax(beta):
    random = np.random.default_rng(3)
    queries, gallery, bank = (unit(random.normal(size=(n, 6))) for n in (15, 30, 50))
    bias = qb_norm.compute_correction(bank, gallery, beta).bias
    found, _ = search.top_k(*qb_norm.extend_vectors(queries, gallery, bias), 30)
    expected = np.argsort(-by_definition(queries, gallery, bank, beta), axis=1, kind="stable")
    np.testing.assert_array_equal(found, expected)


def test_the_dynamic_form_corrects_those_queries_whose_first_answer_is_active():
    random = np.random.default_rng(5)
    queries, gallery, bank = (unit(random.normal(size=(n, 4))) for n in (60, 30, 6))
    known = qb_norm.compute_correction(bank, gallery, 20.0)
    banked = bank.astype(np.float64) @ gallery.astype(np.float64).T
    assert set(np.flatnonzero(known.active)) == set(banked.argmax(axis=1))
    plain, _ = search.top_k(queries, gallery, 5)
    found = qb_norm.answer_corrected(queries, gallery, plain, known)
    inverted = np.argsort(-by_definition(queries, gallery, bank, 20.0), axis=1, kind="stable")[:, :5]
    corrected = np.isin(plain[:, 0], banked.argmax(axis=1))
    assert 0 < corrected.sum() < len(queries)
    np.testing.assert_array_equal(found[corrected], inverted[corrected])
    np.testing.assert_array_equal(found[~corrected], plain[~corrected])
    assert (found != plain).any()


def test_a_hub_that_hides_every_answer_is_taken_away():
    queries, gallery, bank, own = hubby(120)
    query = np.arange(120)
    plain, _ = search.top_k(queries, gallery, 5)
    assert (plain[:, 0] == 0).all()
    task = RetrievalTask(queries, gallery, query, own)
    beta = qb_norm.choose_beta(bank, task)
    found = qb_norm.answer_corrected(queries, gallery, plain, qb_norm.compute_correction(bank, gallery, beta))
    assert mean_hit(task, plain, 1) == 0
    assert mean_hit(task, found, 1) > 0.95
    before, after = (compute_skewness(count_occurrences(ids[:, :1], 41)) for ids in (plain, found))
    assert before > 6 > 1 > after


def test_where_the_bank_treats_all_items_alike_nothing_changes():
    random = np.random.default_rng(1)
    gallery = np.eye(12, dtype=np.float32)
    bank = np.ones((20, 12), np.float32) / np.sqrt(12, dtype=np.float32)
    queries = unit(random.normal(size=(40, 12)))
    plain, _ = search.top_k(queries, gallery, 12)
    known = qb_norm.compute_correction(bank, gallery, 20.0)
    np.testing.assert_allclose(known.bias, 0, atol=1e-6)
    np.testing.assert_array_equal(qb_norm.answer_corrected(queries, gallery, plain, known), plain)


def test_at_its_ends_beta_takes_off_the_banks_mean_or_its_best_score():
    random = np.random.default_rng(8)
    gallery, bank = unit(random.normal(size=(20, 5))), unit(random.normal(size=(30, 5)))
    banked = bank.astype(np.float64) @ gallery.astype(np.float64).T
    low, high = qb_norm.compute_biases(bank, gallery, [1e-2, 1e4])
    for found, expected, within in ((low, banked.mean(axis=0), 5e-3), (high, banked.max(axis=0), 5e-4)):
        np.testing.assert_allclose(found, expected - expected.mean(), atol=within)


def test_biases_do_not_depend_on_the_blocks_and_hold_no_more_than_one(monkeypatch):
    random = np.random.default_rng(9)
    gallery, bank = unit(random.normal(size=(50, 8))), unit(random.normal(size=(33, 8)))
    whole = qb_norm.compute_biases(bank, gallery, qb_norm.BETAS)
    monkeypatch.setattr(qb_norm, "TILE", 7)
    seen = []
    real = qb_norm.torch.logsumexp
    monkeypatch.setattr(
        qb_norm.torch, "logsumexp", lambda block, dim: (seen.append(block.numel()), real(block, dim))[1]
    )
    np.testing.assert_allclose(qb_norm.compute_biases(bank, gallery, qb_norm.BETAS), whole, atol=1e-6)
    assert max(seen) == 7 * 7


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_both_directions_in_the_same_vectors_rank_as_each_by_itself(seed):
    random = np.random.default_rng(seed)
    images, texts, bank_images, bank_texts = (unit(random.normal(size=(n, 5))) for n in (15, 25, 8, 9))
    plain = {"t2i": search.top_k(texts, images, 7)[0], "i2t": search.top_k(images, texts, 7)[0]}
    known = {
        "t2i": qb_norm.compute_correction(bank_texts, images, 10.0),
        "i2t": qb_norm.compute_correction(bank_images, texts, 50.0),
    }
    both = qb_norm.answer_both_corrected(images, texts, plain, known)
    alone = qb_norm.answer_corrected(texts, images, plain["t2i"], known["t2i"])
    np.testing.assert_array_equal(both["t2i"], alone)
    np.testing.assert_array_equal(both["i2t"], qb_norm.answer_corrected(images, texts, plain["i2t"], known["i2t"]))


def test_beta_is_the_best_on_the_queries_given_and_the_least_of_equal_ones():
    random = np.random.default_rng(0)
    items = np.concatenate([unit(random.normal(size=(30, 8))), unit(random.normal(size=(1, 8)))])
    queries = unit(items[:30] + 0.9 * unit(random.normal(size=(30, 8))) + items[30])
    bank = unit(items[:30] + 0.9 * unit(random.normal(size=(30, 8))) + items[30])
    query = np.arange(30)
    plain, _ = search.top_k(queries, items, 5)
    task = RetrievalTask(queries, items, query, query)
    found = {
        beta: mean_hit(
            task,
            qb_norm.answer_corrected(queries, items, plain, qb_norm.compute_correction(bank, items, beta)),
            5,
        )
        for beta in qb_norm.BETAS
    }
    assert len(set(found.values())) > 1
    expected = min(beta for beta in found if found[beta] == max(found.values()))
    assert qb_norm.choose_beta(bank, task) == expected
