"""Pre-train the baseline on the corpus.    python -m stages.baseline"""

from pathlib import Path

from tuwen.core.errors import report_user_errors
from tuwen.core.params import load_params
from tuwen.tracking import runs
from tuwen.training import checkpoint, distributed, recipes


@report_user_errors
def main() -> None:
    """Run the stage; its curves go to MLflow as they arise."""
    distributed.start_processes("stages.baseline")
    params, clean, out = load_params(), Path("data/clean"), Path("models/baseline")
    settings, inputs = recipes.list_baseline_settings(params), recipes.list_baseline_inputs(clean)
    kept = checkpoint.locate_checkpoint(out.name, inputs, settings)
    with distributed.join_group(), runs.track_run(out, settings, inputs, kept / "run_id") as run:
        recipes.make_baseline(clean, out, params, kept, run.log_metrics)
        run.finish_output(out)


if __name__ == "__main__":
    main()
