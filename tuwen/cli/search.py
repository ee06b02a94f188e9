"""A model asked from the terminal."""

from pathlib import Path
from typing import Annotated

import typer

search_app = typer.Typer()

PLAIN_COLUMNS = 1000  # of a file or a pipe, where no line is broken


@search_app.command()
def search(
    query: Annotated[str, typer.Argument(metavar="TEXT|PICTURE", help="A text, or the path of a picture.")],
    model: Annotated[
        Path | None,
        typer.Option(help="A model folder; by default models/finetuned, with --rerank models/reranked."),
    ] = None,
    gallery: Annotated[str, typer.Option(help="A set that it has embedded, or a folder of pictures.")] = "bank",
    k: Annotated[int, typer.Option("-k", min=1, help="Answers.")] = 5,
    rerank: Annotated[bool, typer.Option("--rerank", help="Reorder the first by a re-ranker.")] = False,
) -> None:
    """Search: a text finds pictures, a picture finds texts; in a folder of pictures both find pictures."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from tuwen.evaluation.metric import format_number
    from tuwen.retrieval.lookup import find_answers

    folder = model or Path("models/reranked" if rerank else "models/finetuned")
    found = find_answers(query, folder, gallery, k, rerank)
    shown = [name for name in ("caption", "file") if any(getattr(one, name) for one in found)]
    numbers = ["score", *(["match"] if rerank else [])]
    table = Table(box=None, pad_edge=False)
    for name in ("rank", *numbers):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("id", *shown):
        table.add_column(name, overflow="fold")
    for rank, one in enumerate(found, 1):
        # as they are: a caption may hold what is markup elsewhere
        words = (Text(" ".join(getattr(one, name).split())) for name in ("id", *shown))
        values = (getattr(one, name) for name in numbers)
        figures = ("" if value is None else format_number(value, ".3f") for value in values)
        table.add_row(str(rank), *figures, *words)
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PLAIN_COLUMNS)
    console.print(table)


@search_app.command()
def attention(
    image: Annotated[Path, typer.Option(help="The path of a picture.")],
    text: Annotated[str, typer.Option(help="A caption of it.")],
    model: Annotated[Path, typer.Option(help="The folder of a re-ranker.")] = Path("models/reranked"),
    out: Annotated[Path, typer.Option(dir_okay=False, help="The PNG to write.")] = Path("attention.png"),
) -> None:
    """Draw what a re-ranker reads in a picture for each noun of a caption; light is what speaks for a match."""
    from tuwen.core.errors import UserError
    from tuwen.data.formats.images import decode_image
    from tuwen.report.heat import draw_sheet
    from tuwen.retrieval.attention.entity_maps import load_attention_reader, map_entities
    from tuwen.retrieval.retriever import read_square

    reader = load_attention_reader(model)
    read = map_entities(reader, read_square((str(image), image), reader.picture_rule), text)
    if not read.maps:
        raise UserError(f"--text {text}: the segmenter finds no noun in it, and maps are of nouns")
    out.parent.mkdir(parents=True, exist_ok=True)
    draw_sheet(decode_image(image.read_bytes()), read.maps).save(out, "PNG")
    print(f"match {read.match:.3f}")
    for number, one in enumerate(read.maps, 1):
        print(number, one.word)
    print(out)
