"""Pre-train the baseline on the corpus.    python -m stages.baseline"""

from pathlib import Path

from tuwen import models, track, train
from tuwen.errors import reports_user_errors
from tuwen.params import load


@reports_user_errors
def main() -> None:
    """Run the stage; its curves go to MLflow as they arise."""
    params, clean, out = load(), Path("data/clean"), Path("models/baseline")
    settings, inputs = models.baseline_settings(params), models.baseline_inputs(clean)
    checkpoint = train.checkpoint_folder(out.name, inputs, settings)
    with track.run(out.name, "training", settings, inputs, resume_id=train.read_run_id(checkpoint)) as run:
        train.keep_run_id(checkpoint, run.id)
        models.make_baseline(clean, out, params, checkpoint, run.log_metrics)
        run.finish_output(out)


if __name__ == "__main__":
    main()
