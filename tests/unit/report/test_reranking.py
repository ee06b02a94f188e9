"""The sentence on depth and weight."""

import pytest

from tuwen.evaluation.details import Reranking
from tuwen.report.reranking import describe_choice


@pytest.mark.parametrize(
    ("k", "weight", "said"),
    [
        (4, 0.5, "the first 4 are read, and the score is the probability of a match + 0.5 × cosine."),
        (2, 0.0, "the first 2 are read, and the score is the probability of a match."),
        (1, 10.0, "the order of the cosine stands, since none was better on valid."),
    ],
)
def test_it_says_what_valid_chose(k: int, weight: float, said: str) -> None:
    chosen = Reranking(k=k, weight=weight, sure_on_valid=False, curve=[])
    assert describe_choice("t2i", chosen) == f"text → image: {said}"
