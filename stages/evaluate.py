"""Measure one model on valid and test, and its doubts about the bank.    python -m stages.evaluate MODEL"""

import sys
from pathlib import Path

from tuwen import track
from tuwen.errors import UserError, reports_user_errors
from tuwen.evaluate import evaluate
from tuwen.params import load


@reports_user_errors
def main() -> None:
    """Run the stage, then log its figures to MLflow."""
    if len(sys.argv) != 2:
        raise UserError(f"one model expected, got {sys.argv[1:]}; call it as: python -m stages.evaluate MODEL")
    model = sys.argv[1]
    params = load()
    embeddings, clean, results = Path("embeddings") / model, Path("data/clean"), Path("results") / model
    metrics = evaluate(embeddings, clean, results, params.evaluate, params.pairs, model=Path("models") / model)
    inputs = {f"embeddings-{name}": embeddings / name for name in metrics}
    inputs |= {f"data-{name}": clean / name for name in metrics}
    logged = {"model": model, **params.evaluate.model_dump()}
    with track.run(name=f"evaluate-{model}", kind="evaluation", params=logged, inputs=inputs) as run:
        run.log_metrics(track.evaluation_metrics(metrics), step=0)
        run.finish_output(results)


if __name__ == "__main__":
    main()
