"""Sets and models in forms that other programs read, and lists of shards."""

import sys
from pathlib import Path
from typing import Annotated

import typer

export_app = typer.Typer(no_args_is_help=True, help="Sets and models in forms that other programs read.")
shards_app = typer.Typer()

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
    form: Annotated[
        str,
        typer.Argument(
            metavar="FORM", help="torch or onnx (any model), hugging_face, open_clip (folders) or cn_clip (a .pt)."
        ),
    ],
    folder: Annotated[Path, typer.Argument(metavar="MODEL", help="A folder such as models/finetuned.")],
    out: Out,
) -> None:
    """Write a model as torch alone, ONNX Runtime, transformers, open_clip or cn_clip read it."""
    if form == "onnx":
        from tuwen.export.onnx_form import write_onnx_folder

        write_onnx_folder(folder, out)
        return
    from tuwen.model.weights.export import export_model

    export_model(form, folder, out)


@shards_app.command()
def shards(
    places: Annotated[list[Path], typer.Argument(metavar="PLACE...", help="Folders that hold tars, or tars.")],
) -> None:
    """Print a list of WebDataset shards as CSV: the root of a corpus whose shards stay where they are."""
    from tuwen.data.sources.webdataset import list_shards

    list_shards(places, sys.stdout)
