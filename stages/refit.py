"""The model that answers the tasks: the fine-tuned one, or one trained on all views.    python -m stages.refit"""

from pathlib import Path

from tuwen import models, track, train
from tuwen.errors import reports_user_errors
from tuwen.params import load


@reports_user_errors
def main() -> None:
    """Run the stage; a refit's curve goes to MLflow as it arises, a copy is no training and has no run."""
    params, clean, augmented = load(), Path("data/clean"), Path("data/augmented")
    baseline, out = Path("models/baseline"), Path("models/final")
    if not params.finetune.refit_all:
        models.copy(Path("models/finetuned"), out)
        return
    settings, inputs = models.refit_settings(params), models.refit_inputs(augmented, baseline)
    checkpoint = train.checkpoint_folder(out.name, inputs, settings)
    with track.run(out.name, "training", settings, inputs, resume_id=train.read_run_id(checkpoint)) as run:
        train.keep_run_id(checkpoint, run.id)
        models.make_refitted(clean, augmented, baseline, out, params, checkpoint, run.log_metrics)
        run.finish_output(out)


if __name__ == "__main__":
    main()
