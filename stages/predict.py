"""Answer the two tasks with the final model: result1.csv, result2.csv.    python -m stages.predict"""

from pathlib import Path

from tuwen.core.errors import report_user_errors
from tuwen.core.params import load_params
from tuwen.prediction.predict import predict
from tuwen.prediction.reranking import choose_reordering


@report_user_errors
def main() -> None:
    """Run the stage."""
    params = load_params().predict
    reordering = choose_reordering(params.rerank, Path("models/reranked"), Path("results/reranked"))
    if params.rerank == "auto":
        print(f"predict.rerank: auto re-ranks {', '.join(reordering.choices if reordering else ()) or 'nothing'}")
    predict(
        Path("embeddings/final"),
        Path("data/clean"),
        Path("results"),
        params.k,
        model=Path("models/final"),
        chosen=Path("results/finetuned/details.json") if params.correction == "qbnorm" else None,
        reordering=reordering,
    )


if __name__ == "__main__":
    main()
