"""Rows of FIGURES that a re-ranked model alone has: the change of its order, and the AUC of its probability."""

from tuwen.evaluation.metric import PERCENT, MeanOverKs, Metric, OfQueries, OfSet
from tuwen.evaluation.reranked.matching import measure_match_auc
from tuwen.retrieval import metrics

RERANKED_FIGURES = {
    "rerank_gain": Metric(
        name="{direction}_rerank_gain_at_{k}",
        title="R@{k}, change by re-ranking",
        unit=PERCENT,
        source=OfQueries(metrics.compute_hits, "reordering"),
        has_interval=True,
        needs_reordering=True,
        in_table=False,
    ),
    "rerank_gain_mean": Metric(
        name="{direction}_rerank_gain_mean",
        title="R@M, change by re-ranking",
        unit=PERCENT,
        source=MeanOverKs("rerank_gain"),
        has_interval=True,
        needs_reordering=True,
        in_table=False,
    ),
    "match_auc": Metric(
        name="match_auc",
        title="AUC by the match",
        unit=PERCENT,
        source=OfSet(measure_match_auc),
        has_interval=True,
        in_table=False,
    ),
}
