"""Anybody's work measured: embeddings, result files, and models that classify."""

from pathlib import Path
from typing import Annotated

import typer

measure_app = typer.Typer()


@measure_app.command()
def evaluate(
    images: Annotated[Path, typer.Option(help="Array [pictures, dimensions] as .npy, any float, any length.")],
    texts: Annotated[Path, typer.Option(help="Array [texts, dimensions] of the same model.")],
    relevance: Annotated[
        Path,
        typer.Option(help="CSV with the header image,text[,label]: row numbers or ids; or a set's pairs.parquet."),
    ],
    image_ids: Annotated[
        Path | None,
        typer.Option(help="The pictures' ids, one a line, or images.parquet; beside pairs.parquet it is found."),
    ] = None,
    text_ids: Annotated[Path | None, typer.Option(help="The texts' ids, or texts.parquet.")] = None,
    k: Annotated[list[int], typer.Option("-k", help="Once for every k.")] = [1, 5, 10],  # noqa: B006 - typer copies it
    scores: Annotated[
        list[Path],
        typer.Option(
            help="A re-ranker's CSV: text,image,score or image,text,score, the query first; once for each."
        ),
    ] = [],  # noqa: B006
    out: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Also write every figure there, as JSON.")
    ] = None,
) -> None:
    """Measure anybody's embeddings, and re-ranker: hit@k, recall@k, intervals, gallery curves, hubs, AUC."""
    from tuwen.data.formats.json_file import write_json
    from tuwen.evaluation.external.arrays import read_array
    from tuwen.evaluation.external.measure import evaluate_arrays
    from tuwen.evaluation.external.relevance import find_ids, locate_relevance
    from tuwen.evaluation.headline import format_figures

    relevance = locate_relevance(relevance)
    arrays = (
        read_array("image", images, image_ids or find_ids(relevance, "image")),
        read_array("text", texts, text_ids or find_ids(relevance, "text")),
    )
    for array in arrays:
        print(array.note)
    measured = evaluate_arrays(*arrays, relevance, k, scores)
    print(format_figures(measured))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, measured)


@measure_app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="result1.csv, result2.csv, or one like them.")],
    queries: Annotated[Path, typer.Option(help="Table of the queries: word_test.csv, image_test.csv.")],
    gallery: Annotated[Path, typer.Option(help="Table of the gallery: image_data.csv, word_data.csv.")],
    k: Annotated[int, typer.Option("-k", min=1, help="Ranks of each query.")] = 5,
    truth: Annotated[
        Path | None, typer.Option(help="True pairs to score it by: image_id,text_id or image_id,caption.")
    ] = None,
) -> None:
    """Check anybody's result file strictly, and name all faults; exit code 1 where there is one."""
    from tuwen.prediction.check import check_result_file as is_sound

    if not is_sound(file, queries, gallery, k, truth):
        raise typer.Exit(1)


@measure_app.command()
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
