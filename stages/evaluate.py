"""Measure one model on valid and test, and how well the bank's pairs fit.    python -m stages.evaluate MODEL"""

import sys
from contextlib import AbstractContextManager
from pathlib import Path

from tuwen.core.errors import UserError, report_user_errors
from tuwen.core.params import Params, load_params
from tuwen.data.formats import manifest
from tuwen.evaluation.evaluate import EVALUATED_SETS, MEASURED_SETS, evaluate_model, judge_pairs
from tuwen.evaluation.models import MODELS, find_before, get_base
from tuwen.evaluation.reranked.evaluate import evaluate_reranked
from tuwen.evaluation.zero_shot import evaluate_zero_shot
from tuwen.model.reranker import has_reranker
from tuwen.tracking import figures, runs

SETS = Path("data/clean")


@report_user_errors
def main() -> None:
    """Run the stage, then log its metrics to MLflow."""
    if len(sys.argv) != 2 or sys.argv[1] not in MODELS:
        raise UserError(
            f"one model of {', '.join(MODELS)} expected, got {sys.argv[1:]}; call it as: "
            "python -m stages.evaluate MODEL"
        )
    name, params = sys.argv[1], load_params()
    if MODELS[name].embeds:
        _measure(name, params)
    else:
        _measure_reordering(name, find_before(name).name, params)


def _measure(name: str, params: Params) -> None:
    embeddings, results = Path("embeddings") / name, Path("results") / name
    inputs = {f"embeddings-{one}": embeddings / one for one in EVALUATED_SETS}
    inputs |= {f"data-{one}": SETS / one for one in EVALUATED_SETS}
    with _track(name, inputs, params) as run:
        metrics = evaluate_model(
            embeddings, SETS, results, params.evaluate, params.pairs, model=Path("models") / name
        )
        test = embeddings / "test", SETS / "test"
        evaluate_zero_shot(Path("models") / name, *test, results / "zero_shot.json", params.evaluate)
        run.log_metrics(figures.flatten_metrics(metrics), step=0)
        run.finish_output(results)
        finding = judge_pairs(metrics["bank"], params.pairs, results) if name == get_base().name else ""
        if finding and params.pairs.severity == "critical":
            raise UserError(finding)
        if finding:
            print(f"warning: {finding}", file=sys.stderr)


def _measure_reordering(name: str, reordered: str, params: Params) -> None:
    """Measure a model that reorders what another finds; one that is switched off has no run of its own."""
    model, embeddings, results = Path("models") / name, Path("embeddings") / reordered, Path("results") / name
    if not has_reranker(model):
        evaluate_reranked(model, embeddings, SETS, results, params.evaluate)
        return
    inputs = {"model": model} | {f"embeddings-{one}": embeddings / one for one in MEASURED_SETS}
    inputs |= {f"data-{one}": SETS / one for one in EVALUATED_SETS}
    with _track(name, inputs, params) as run:
        measured = evaluate_reranked(model, embeddings, SETS, results, params.evaluate)
        run.log_metrics(figures.flatten_metrics(measured.metrics), step=0)
        for direction, costs in measured.costs.items():
            for depth, milliseconds in costs.items():
                run.log_metrics({figures.get_cost_name(direction): milliseconds}, step=depth)
        run.finish_output(results)


def _track(name: str, inputs: dict[str, Path], params: Params) -> AbstractContextManager[runs.Run]:
    """Return the run of results/NAME; work that was killed goes on with its own."""
    settings = {"model": name, **params.evaluate.model_dump()}
    kept = Path(".cache/evaluate") / f"{name}-{manifest.make_work_key(inputs, settings, ())}"
    return runs.track_run(Path("results") / name, settings, inputs, kept)


if __name__ == "__main__":
    main()
