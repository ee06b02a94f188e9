"""Before and after the pipeline: settings, presets and their worktrees, and the table of recall."""

from pathlib import Path
from typing import Annotated

import typer

pipeline_app = typer.Typer()


@pipeline_app.command()
def results() -> None:
    """Print the table of recall, baseline beside fine-tuned, and where the results lie."""
    from tuwen.core.params import load_params
    from tuwen.report.terminal import format_headline

    folder = Path("results")
    print(format_headline(folder, load_params().evaluate if Path("params.yaml").is_file() else None).rstrip())
    print()
    for name in ("result1.csv", "result2.csv", "report.html"):
        path = (folder / name).absolute()
        print(path if path.exists() else f"{path}: not here; `dvc pull` or `make run` brings it")
    if (Path("data/clean") / "quality.json").is_file():
        print()
        quality()


@pipeline_app.command()
def quality() -> None:
    """Print what became of the rows of each set, and where the page of data quality lies."""
    from tuwen.data.formats.json_file import read_json
    from tuwen.data.quality.summary import format_counts

    clean = Path("data/clean")
    print(format_counts(read_json(clean / "quality.json"), clean))


@pipeline_app.command()
def params(
    preset: Annotated[str | None, typer.Option(help="Check and print this preset, composed, instead.")] = None,
) -> None:
    """Check params.yaml whole, before DVC removes the outs of a stage that would refuse it."""
    from tuwen.core.params import load_params
    from tuwen.core.params.root import require_corpus
    from tuwen.core.presets import check_preset, compose_preset, format_preset

    if preset is None:
        require_corpus(load_params(), "params.yaml")
        return
    composed = compose_preset(preset)
    check_preset(composed)
    print(format_preset(composed), end="")


@pipeline_app.command()
def init(
    place: Annotated[Path, typer.Argument(metavar="PLACE", help="A folder below inputs/, or a table in it.")],
    name: Annotated[str | None, typer.Option(help="Of the preset; that of the folder if not given.")] = None,
    encoding: Annotated[str | None, typer.Option(help="Of the text files, where it cannot be told.")] = None,
) -> None:
    """Look at your own files, say what they are, and draft a preset for them."""
    from tuwen.data.inspection.draft import write_draft

    folder = place.parent if place.is_file() else place
    path, seen = write_draft(place, name or folder.name.lower(), encoding=encoding)
    print("\n".join([*seen, f"{path} is drafted: read it, then `make run PRESET={path.stem}`"]))


@pipeline_app.command()
def worktree(preset: Annotated[str, typer.Argument(help="A file in presets/, without .yaml.")] = "") -> None:
    """Make the folder in which a preset runs, and print it."""
    from tuwen.core.worktree import make_worktree

    print(make_worktree(preset))


@pipeline_app.command()
def gc() -> None:
    """Remove from DVC's cache what no branch, tag, experiment or preset needs."""
    from tuwen.core.garbage import collect_garbage

    collect_garbage()
