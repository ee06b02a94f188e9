"""The model that answers the tasks: the fine-tuned one, or one trained on all views.    python -m stages.refit"""

from pathlib import Path

from tuwen.core.errors import report_user_errors
from tuwen.core.params import load_params
from tuwen.model.stored_model import copy_model


@report_user_errors
def main() -> None:
    """Run the stage; a refit's curve goes to MLflow as it arises, a copy is no training and has no run."""
    params, clean, augmented = load_params(), Path("data/clean"), Path("data/augmented")
    baseline, tuned, out = Path("models/baseline"), Path("models/finetuned"), Path("models/final")
    if not params.finetune.refit_all:
        copy_model(tuned, out)
        return
    from tuwen.tracking import runs
    from tuwen.training import checkpoint, distributed, recipes
    from tuwen.training.provenance import inputs

    distributed.start_processes("stages.refit")
    splits, settings = params.augment.splits, inputs.list_refit_settings(params, tuned)
    made_from = inputs.list_refit_inputs(clean, augmented, baseline, splits)
    kept = checkpoint.locate_checkpoint(out.name, made_from, settings)
    with distributed.join_group():
        views = recipes.open_labelled_views(clean, augmented, baseline, splits, params)  # as stages/baseline.py
        with runs.track_run(out, settings, made_from, kept / "run_id") as run:
            log = run.log_metrics
            recipes.make_refitted(clean, augmented, baseline, out, params, kept, log, views, tuned=tuned)
            run.finish_output(out)


if __name__ == "__main__":
    main()
