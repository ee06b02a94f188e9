"""MLflow's runs and its registry."""

import sys
from pathlib import Path
from typing import Annotated

import typer

track_app = typer.Typer(no_args_is_help=True, help="MLflow runs.")


@track_app.command()
def sync() -> None:
    """Give every model and evaluation its MLflow run; write runs/lineage.json."""
    from tuwen.tracking.lineage import LINEAGE
    from tuwen.tracking.lineage import sync as make_runs
    from tuwen.tracking.revision import explain_unknown

    runs = make_runs()
    if why := explain_unknown():
        print(f"warning: which code made these outs is unknown: {why}", file=sys.stderr)
    print(f"{len(runs)} outs with their MLflow runs: {LINEAGE.absolute()}")


@track_app.command()
def register(
    model: Annotated[Path, typer.Argument(metavar="[MODEL_DIR]", help="A folder in models/.")] = Path(
        "models/finetuned"
    ),
    gallery: Annotated[str, typer.Option(help="The set to answer from, which the model has embedded.")] = "bank",
) -> None:
    """Register a model with a gallery as `tuwen`: the challenger, and the champion where it is the better one."""
    from tuwen.core.params import load_params
    from tuwen.tracking.registry import register as register_model

    made = register_model(model, gallery, load_params().evaluate)
    names = "challenger and champion" if made.is_champion else "challenger"
    print(f"models:/tuwen/{made.version} is {names}: {made.why}")
