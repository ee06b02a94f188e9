"""What Prometheus is told: the time of each step, the number of requests and queries, the size of batches."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20)
BATCH_QUERIES = (1, 2, 4, 8, 16, 32, 64, 128)


class SearchMetrics:
    """The collectors of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = one = CollectorRegistry()
        name = "tuwen_search_"
        self.stages = Histogram(f"{name}stage_seconds", "Time by stage", ["stage"], buckets=SECONDS, registry=one)
        self.latency = Histogram(
            f"{name}request_seconds", "Time by route", ["route"], buckets=SECONDS, registry=one
        )
        self.batches = Histogram(f"{name}batch_queries", "Queries in a batch", buckets=BATCH_QUERIES, registry=one)
        self.requests = Counter(f"{name}requests", "Answers", ["route", "status"], registry=one)
        self.queries = Counter(f"{name}queries", "Queries", ["kind", "of"], registry=one)
        self.swaps = Counter(f"{name}swaps", "Models taken or refused", ["outcome"], registry=one)
        self.items = Gauge(f"{name}index_items", "Items of the index", ["side"], registry=one)


class StageTimes:
    """How long the stages of one request took, in milliseconds."""

    def __init__(self, metrics: SearchMetrics) -> None:
        self.milliseconds: dict[str, float] = {}
        self._metrics = metrics

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time of a `with` block to a stage."""
        start = perf_counter()
        try:
            yield
        finally:
            self.add(stage, perf_counter() - start)

    def add(self, stage: str, seconds: float) -> None:
        """Add seconds to a stage."""
        self.milliseconds[stage] = round(self.milliseconds.get(stage, 0.0) + 1000 * seconds, 3)
        self._metrics.stages.labels(stage).observe(seconds)
