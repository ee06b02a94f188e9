"""The stage of the re-ranker: a run in MLflow where there is one, and a folder in any case."""

import json
from pathlib import Path

import pytest

from stages import rerank
from tests.support.reranking import make_settings
from tests.support.training import settings, write_baseline
from tuwen.core.params import Params, Rerank
from tuwen.model.reranker import has_reranker
from tuwen.tracking import runs
from tuwen.training import recipes


def read_params(asked: Rerank | None) -> Params:
    return settings(augment={"views": 2}).model_copy(update={"rerank": asked})


def write_params(asked: Rerank | None) -> None:
    values = read_params(asked).model_dump(by_alias=True, mode="json")
    Path("params.yaml").write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")


def test_a_reranker_has_a_run_with_its_curves_and_none_has_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    params = read_params(None)
    write_baseline(params)
    folders = [Path("data/clean"), Path("data/augmented"), Path("models/baseline"), Path("models/finetuned")]
    recipes.make_finetuned(*folders, params, Path(".cache/f"), lambda *_: None)
    client, experiment = runs.connect()
    write_params(None)
    rerank.main()
    assert [path.name for path in Path("models/reranked").iterdir()] == ["manifest.json"]
    assert client.search_runs([experiment]) == []

    asked = make_settings()
    fit = asked.fit.model_copy(update={"batch_size": 4, "epochs": 2})
    write_params(asked.model_copy(update={"fit": fit}))
    rerank.main()
    assert has_reranker(Path("models/reranked"))
    (run,) = client.search_runs([experiment])
    assert run.info.status == "FINISHED"
    for name in ("fgr", "fgr_accuracy", "valid_t2i_hit_at_1"):
        assert [point.step for point in client.get_metric_history(run.info.run_id, name)] == [1, 2]
    assert run.data.params["rerank.fusion"] == "both"
    assert not list(Path(".cache/train").iterdir())
