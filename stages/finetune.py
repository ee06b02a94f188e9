"""Fine-tune the baseline on the augmented views.    python -m stages.finetune"""

from pathlib import Path

from tuwen.core.errors import report_user_errors
from tuwen.core.params import load_params
from tuwen.tracking import runs
from tuwen.training import checkpoint, distributed, recipes
from tuwen.training.provenance import inputs


@report_user_errors
def main() -> None:
    """Run the stage; its curves go to MLflow as they arise."""
    distributed.start_processes("stages.finetune")
    params, clean, augmented = load_params(), Path("data/clean"), Path("data/augmented")
    baseline, out = Path("models/baseline"), Path("models/finetuned")
    settings, made_from = (
        inputs.list_finetune_settings(params),
        inputs.list_finetune_inputs(clean, augmented, baseline),
    )
    kept = checkpoint.locate_checkpoint(out.name, made_from, settings)
    with distributed.join_group():
        views = recipes.open_labelled_views(clean, augmented, baseline, ["train"], params)  # as stages/baseline.py
        with runs.track_run(out, settings, made_from, kept / "run_id") as run:
            recipes.make_finetuned(clean, augmented, baseline, out, params, kept, run.log_metrics, views)
            run.finish_output(out)


if __name__ == "__main__":
    main()
