"""Train the re-ranker over the fine-tuned model.    python -m stages.rerank"""

from pathlib import Path

from tuwen.core.errors import report_user_errors
from tuwen.core.params import load_params
from tuwen.reranking.no_reranker import write_no_reranker


@report_user_errors
def main() -> None:
    """Run the stage; its curves go to MLflow as they arise. Where none is asked for there is no run."""
    params, clean, augmented = load_params(), Path("data/clean"), Path("data/augmented")
    tuned, out = Path("models/finetuned"), Path("models/reranked")
    if params.rerank is None:
        write_no_reranker(out)
        return
    from tuwen.reranking import recipe
    from tuwen.tracking import runs
    from tuwen.training import checkpoint, distributed

    distributed.start_processes("stages.rerank")
    settings = recipe.list_rerank_settings(params)
    inputs = recipe.list_rerank_inputs(clean, augmented, tuned, params)
    kept = checkpoint.locate_checkpoint(out.name, inputs, settings, recipe.DECIDING_CODE)
    with distributed.join_group():
        views = recipe.open_rerank_views(clean, augmented, tuned, params)  # as stages/baseline.py
        with runs.track_run(out, settings, inputs, kept / "run_id") as run:
            recipe.make_reranked(clean, augmented, tuned, out, params, kept, run.log_metrics, views)
            run.finish_output(out)


if __name__ == "__main__":
    main()
