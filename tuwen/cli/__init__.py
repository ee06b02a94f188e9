"""What people call by hand.    tuwen --help

A module for each family of commands, which imports what it calls only when it is called: pipeline.py, measure.py,
search.py, export.py and track.py. __main__.py is for `python -m tuwen.cli`.
"""

import typer

from tuwen.cli.export import export_app, shards_app
from tuwen.cli.measure import measure_app
from tuwen.cli.pipeline import pipeline_app
from tuwen.cli.search import search_app
from tuwen.cli.track import track_app
from tuwen.core.environment import prepare_process
from tuwen.core.errors import report_user_errors

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
for family in (pipeline_app, search_app, measure_app, shards_app):  # commands of their own
    app.add_typer(family)
app.add_typer(export_app, name="export")
app.add_typer(track_app, name="track")


@app.callback()
def tuwen() -> None:
    """Chinese image-text retrieval: results, runs and presets. The pipeline itself is `dvc repro`."""


@report_user_errors
def main() -> None:
    """Run the command line."""
    prepare_process()
    app()
