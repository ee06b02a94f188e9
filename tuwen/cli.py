"""What people call by hand.    tuwen --help"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from tuwen.core.environment import prepare_process
from tuwen.core.errors import report_user_errors

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
track_app = typer.Typer(no_args_is_help=True, help="MLflow runs.")
app.add_typer(track_app, name="track")
export_app = typer.Typer(no_args_is_help=True, help="Sets and models in forms that other programs read.")
app.add_typer(export_app, name="export")


@app.callback()
def tuwen() -> None:
    """Chinese image-text retrieval: results, runs and presets. The pipeline itself is `dvc repro`."""


@app.command()
def results() -> None:
    """Print the table of recall, baseline beside fine-tuned, and where the results lie."""
    from tuwen.report.report import format_headline

    folder = Path("results")
    print(format_headline(folder).rstrip())
    print()
    for name in ("result1.csv", "result2.csv", "report.html"):
        path = (folder / name).absolute()
        print(path if path.exists() else f"{path}: not here; `dvc pull` or `make run` brings it")


@app.command()
def params(
    preset: Annotated[str | None, typer.Option(help="Check and print this preset, composed, instead.")] = None,
) -> None:
    """Check params.yaml whole, before DVC removes the outs of a stage that would refuse it."""
    from tuwen.core.params import load_params
    from tuwen.core.presets import check_preset, compose_preset, format_preset

    if preset is None:
        load_params()
        return
    composed = compose_preset(preset)
    check_preset(composed)
    print(format_preset(composed), end="")


@app.command()
def init(
    place: Annotated[Path, typer.Argument(metavar="PLACE", help="A folder below inputs/, or a table in it.")],
    name: Annotated[str | None, typer.Option(help="Of the preset; that of the folder if not given.")] = None,
) -> None:
    """Look at your own files, say what they are, and draft a preset for them."""
    from tuwen.data.inspection.draft import write_draft

    folder = place.parent if place.is_file() else place
    path, seen = write_draft(place, name or folder.name.lower())
    print("\n".join([*seen, f"{path} is drafted: read it, then `make run PRESET={path.stem}`"]))


@app.command()
def evaluate(
    images: Annotated[Path, typer.Option(help="Array [pictures, dimensions] as .npy, any float, any length.")],
    texts: Annotated[Path, typer.Option(help="Array [texts, dimensions] of the same model.")],
    relevance: Annotated[Path, typer.Option(help="CSV with the header image,text[,label]: row numbers or ids.")],
    image_ids: Annotated[Path | None, typer.Option(help="The pictures' ids, one a line in their order.")] = None,
    text_ids: Annotated[Path | None, typer.Option(help="The texts' ids.")] = None,
    k: Annotated[list[int], typer.Option("-k", help="Once for every k.")] = [1, 5, 10],  # noqa: B006 - typer copies it
    out: Annotated[Path | None, typer.Option(help="Also write every figure there, as JSON.")] = None,
) -> None:
    """Measure anybody's embeddings: hit@k, recall@k, intervals, gallery curves, hubs, AUC."""
    from tuwen.data.formats.json_file import write_json
    from tuwen.evaluation.external import evaluate_arrays, read_array
    from tuwen.evaluation.headline import format_figures

    arrays = read_array("image", images, image_ids), read_array("text", texts, text_ids)
    for array in arrays:
        print(array.note)
    measured = evaluate_arrays(*arrays, relevance, k)
    print(format_figures(measured))
    if out is not None:
        write_json(out, measured)


Sets = Annotated[list[Path], typer.Argument(metavar="SET...", help="Folders such as data/clean/train.")]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="A place where nothing is yet.")]


@export_app.command("chinese_clip")
def export_chinese_clip(sets: Sets, out: Out) -> None:
    """Write sets as tsv and jsonl, which Chinese-CLIP reads."""
    from tuwen.data.sources.export import export_sets

    export_sets("chinese_clip", sets, out)


@export_app.command("webdataset")
def export_webdataset(sets: Sets, out: Out) -> None:
    """Write sets as tars."""
    from tuwen.data.sources.export import export_sets

    export_sets("webdataset", sets, out)


@export_app.command("model")
def export_model(
    form: Annotated[str, typer.Argument(metavar="FORM", help="hugging_face (a folder) or cn_clip (a .pt).")],
    folder: Annotated[Path, typer.Argument(metavar="MODEL", help="A folder such as models/finetuned.")],
    out: Out,
) -> None:
    """Write a model as transformers or cn_clip read it."""
    from tuwen.model.weights.load import export_model

    export_model(form, folder, out)


@app.command()
def shards(
    places: Annotated[list[Path], typer.Argument(metavar="PLACE...", help="Folders that hold tars, or tars.")],
) -> None:
    """Print a list of WebDataset shards as CSV: the root of a corpus whose shards stay where they are."""
    from tuwen.data.sources.webdataset import list_shards

    list_shards(places, sys.stdout)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="result1.csv, result2.csv, or one like them.")],
    queries: Annotated[Path, typer.Option(help="Table of the queries: word_test.csv, image_test.csv.")],
    gallery: Annotated[Path, typer.Option(help="Table of the gallery: image_data.csv, word_data.csv.")],
    k: Annotated[int, typer.Option("-k", min=1, help="Ranks of each query.")] = 5,
) -> None:
    """Check anybody's result file strictly, and name all faults; exit code 1 where there is one."""
    from tuwen.prediction.check import check_result_file as is_sound

    if not is_sound(file, queries, gallery, k):
        raise typer.Exit(1)


@app.command()
def classify(
    model: Annotated[Path, typer.Option(help="A model folder such as models/finetuned.")],
    folder: Annotated[Path | None, typer.Option(help="A folder that holds a folder for each class.")] = None,
    csv: Annotated[Path | None, typer.Option(help="A CSV with the columns path and label.")] = None,
    templates: Annotated[Path | None, typer.Option(help="Prompts, one a line, {} for the label.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="JSON to write; the confusion matrix goes beside it as SVG.")
    ] = None,
) -> None:
    """Zero-shot classification of pictures that are sorted already: how well a model knows their classes."""
    from tuwen.core.errors import UserError
    from tuwen.evaluation.image_folder import (
        classify_labelled_images,
        read_labelled_csv,
        read_labelled_tree,
        read_templates,
    )
    from tuwen.evaluation.zero_shot import ENSEMBLE
    from tuwen.evaluation.zero_shot_file import format_report, write_report
    from tuwen.report.html.confusion import draw_confusion

    if (folder is None) == (csv is None):
        raise UserError("tuwen classify: give either --folder or --csv")
    labelled = read_labelled_csv(csv) if csv else read_labelled_tree(folder or Path())
    report = classify_labelled_images(model, labelled, read_templates(templates) if templates else ENSEMBLE)
    print(format_report(report))
    if out is not None:
        write_report(out, report)
        drawing = draw_confusion(report["classes"], report["confusion"])
        out.with_suffix(".svg").write_text(drawing, encoding="utf-8")


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


@app.command()
def worktree(preset: Annotated[str, typer.Argument(help="A file in presets/, without .yaml.")] = "") -> None:
    """Make the folder in which a preset runs, and print it."""
    from tuwen.core.worktree import make_worktree

    print(make_worktree(preset))


@report_user_errors
def main() -> None:
    """Run the command line."""
    prepare_process()
    app()


if __name__ == "__main__":
    main()
