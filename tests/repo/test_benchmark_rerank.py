"""The benchmark of a re-ranker's training prints what docs/benchmarks.md holds."""

import importlib

import pytest

from tests.support.checkout import ROOT


def test_the_ablation_prints_the_accuracy_of_every_seed(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    script = importlib.import_module("rerank_training")
    cosine, match = (0.7451, 0.7914, 0.7361), (1.0, 0.973, 1.0)
    monkeypatch.setattr(script, "measure_dual", lambda seed, dim, epochs: (cosine[seed], 52.0))
    monkeypatch.setattr(script, "measure_both", lambda seed, dim, settings: (cosine[seed], match[seed], 93.0))
    script.measure_ablation([0, 1, 2], 5)
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first == "| GCPR | 74.5 / 79.1 / 73.6 | – | 52 s |"
    assert second == "| + FGR | 74.5 / 79.1 / 73.6 | 100.0 / 97.3 / 100.0 | 93 s |"
