"""Measure one model on valid and test, and how well the bank's pairs fit.    python -m stages.evaluate MODEL"""

import sys
from pathlib import Path

from tuwen.core.errors import UserError, report_user_errors
from tuwen.core.params import load_params
from tuwen.data.formats import manifest
from tuwen.evaluation.evaluate import EVALUATED_SETS, evaluate_model, judge_pairs
from tuwen.evaluation.models import get_base
from tuwen.evaluation.zero_shot import evaluate_zero_shot
from tuwen.tracking import figures, runs


@report_user_errors
def main() -> None:
    """Run the stage, then log its metrics to MLflow."""
    if len(sys.argv) != 2:
        raise UserError(f"one model expected, got {sys.argv[1:]}; call it as: python -m stages.evaluate MODEL")
    model = sys.argv[1]
    params = load_params()
    embeddings, clean, results = Path("embeddings") / model, Path("data/clean"), Path("results") / model
    inputs = {f"embeddings-{name}": embeddings / name for name in EVALUATED_SETS}
    inputs |= {f"data-{name}": clean / name for name in EVALUATED_SETS}
    settings = {"model": model, **params.evaluate.model_dump()}
    kept = Path(".cache/evaluate") / f"{model}-{manifest.make_work_key(inputs, settings, ())}"
    with runs.track_run(results, settings, inputs, kept) as run:
        metrics = evaluate_model(
            embeddings, clean, results, params.evaluate, params.pairs, model=Path("models") / model
        )
        test = embeddings / "test", clean / "test"
        evaluate_zero_shot(Path("models") / model, *test, results / "zero_shot.json")
        run.log_metrics(figures.flatten_metrics(metrics), step=0)
        run.finish_output(results)
        finding = judge_pairs(metrics["bank"], params.pairs, results) if model == get_base().name else ""
        if finding and params.pairs.severity == "critical":
            raise UserError(finding)
        if finding:
            print(f"warning: {finding}", file=sys.stderr)


if __name__ == "__main__":
    main()
