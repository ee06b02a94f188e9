"""Pre-train the baseline on the corpus.    python -m stages.baseline"""

from pathlib import Path

from tuwen.core.errors import report_user_errors
from tuwen.core.params import load_params
from tuwen.tracking import runs
from tuwen.training import checkpoint, distributed, recipes
from tuwen.training.provenance import inputs


@report_user_errors
def main() -> None:
    """Run the stage; its curves go to MLflow as they arise."""
    distributed.start_processes("stages.baseline")
    params, clean, out = load_params(), Path("data/clean"), Path("models/baseline")
    settings, made_from = inputs.list_baseline_settings(params), inputs.list_baseline_inputs(clean)
    kept = checkpoint.locate_checkpoint(out.name, made_from, settings)
    with distributed.join_group():
        views = recipes.open_corpus_views(clean, params)  # before MLflow, which takes seconds to import
        with runs.track_run(out, settings, made_from, kept / "run_id") as run:
            recipes.make_baseline(clean, out, params, kept, run.log_metrics, views)
            run.finish_output(out)


if __name__ == "__main__":
    main()
