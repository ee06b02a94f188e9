"""What a run page shows: the plan before, and after it recall, a gallery of answers and a link to MLflow."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import networkx as nx
from prefect.artifacts import create_markdown_artifact
from prefect.utilities.slugify import slugify

from tuwen.core.errors import UserError

GALLERY_QUERIES = 6


def show_plan(preset: str, graph: Any, wanted: set[str], reasons: Mapping[str, str]) -> None:
    """Show every stage in graph order: will it run, and why."""
    rows = [
        (stage, "**runs**" if stage in reasons else "—", plain(reasons.get(stage) or _at_rest(stage in wanted)))
        for stage in nx.topological_sort(graph)
    ]
    count = f"{len(reasons)} of {len(rows)} stages run"
    _show("plan", preset, f"Preset `{preset}`: {count}.", table(("stage", "", "why"), rows))


def _at_rest(wanted: bool) -> str:
    return "up to date" if wanted else "not asked for"


def show_results(preset: str) -> None:
    """Show recall of all models on test and some answers of the shipped one, from the current directory's results.

    Raises UserError where a result is missing.
    """
    from tuwen.core.params import load_params
    from tuwen.data.formats import pairs
    from tuwen.evaluation.models import MODELS, SHIPPED, list_embedding
    from tuwen.evaluation.results import read_results
    from tuwen.report import examples
    from tuwen.retrieval.vectors import read_set_vectors

    params, clean = load_params().evaluate, Path("data/clean/test")
    results = read_results(Path("results"), params.ks)
    recall = format_recall(results, params)
    _show("recall", preset, "hit@k (R@k) on the test split with 95 % intervals.", recall)
    test = pairs.read_pair_set(clean)
    embedded = {name: Path("embeddings") / name / "test" for name in list_embedding(results)}
    vectors = {name: read_set_vectors(folder, clean, test) for name, folder in embedded.items()}
    ranks = {name: own.ranks for name, own in results.items()}
    shown = examples.collect_examples(Path("data"), test, vectors, ranks, GALLERY_QUERIES, params.seed)
    lead = f"Test texts drawn at random, and the {MODELS[SHIPPED].title} model's answers."
    _show("gallery", preset, lead, format_gallery(shown))


def format_recall(results: Any, params: Any) -> str:
    """Format `read_results` as a Markdown table: R@k, and the metrics that have no other place in the reports.

    A second table has what re-ranking changes, where there is a re-ranker.
    """
    from tuwen.evaluation.figures import FIGURES
    from tuwen.evaluation.headline import make_further_lines, make_lines, tabulate_line
    from tuwen.evaluation.models import find_before, list_gain_titles, list_titles
    from tuwen.report.reranking import find_reordering, list_changes

    lines = [*make_lines(results, FIGURES["hit"], params), *make_further_lines(results, params)]
    tabulated = (tabulate_line(line, results) for line in lines)
    rows = [(f"{direction} {title}", *cells) for direction, title, *cells in tabulated]
    shown = table(("test split", *list_titles(results), *list_gain_titles(results)), rows)
    name = find_reordering(results)
    if name is None:
        return shown
    changes = list_changes(results, name, params)
    reordered = [(f"{one.direction} {one.title}", one.before, one.after, one.change) for one in changes]
    titles = list_titles([find_before(name).name, name])
    return f"{shown}\n\n{table(('test split, in percent', *titles, 'change, points'), reordered)}"


def format_gallery(shown: Any) -> str:
    """Format texts, each with a Markdown table of the first images found for it; a true one's rank is ticked."""
    from tuwen.evaluation.models import SHIPPED
    from tuwen.report.examples import ANSWERS_SHOWN

    parts = []
    for example in shown.queries["t2i"]["random"]:
        answers = example.answers[SHIPPED][:ANSWERS_SHOWN]
        ranks = [f"{one.rank} ✔" if one.is_true else str(one.rank) for one in answers]
        images = [f"![{one.rank}]({shown.thumbnails[one.row]})" for one in answers]
        parts += [f"**{plain(shown.captions[example.row])}**", table(ranks, [images])]
    return "\n\n".join(parts)


def show_mlflow(preset: str) -> None:
    """Show a link to the runs, where MLflow has an address; else the command that opens its store."""
    from tuwen.tracking import runs

    # A server's address among containers may be none that a browser reaches.
    address = urlsplit(os.environ.get("TUWEN_TRACKING_PAGES") or runs.get_address())
    if address.scheme not in ("http", "https"):
        _show("mlflow", preset, "Where the runs are.", "`make mlflow` opens every training and evaluation.")
        return
    try:
        _, experiment = runs.connect()
    except runs.list_store_errors() as error:
        raise UserError(f"TUWEN_TRACKING_URI: {runs.explain(error)}") from error
    # not the experiment's own page, which opens what MLflow has for language models
    place = address._replace(netloc=address.netloc.rpartition("@")[2], fragment=f"/experiments/{experiment}/runs")
    _show("mlflow", preset, "Where the runs are.", f"[Every training and evaluation]({place.geturl()})")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table of cells that are Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows))


def plain(text: str) -> str:
    """Return Markdown that shows a text as it is, on one line, whatever it holds."""
    return re.sub(r"([\\`*_\[\]<>|~&])", r"\\\1", " ".join(text.split()))


def _show(kind: str, preset: str, description: str, markdown: str) -> None:
    create_markdown_artifact(markdown, key=slugify(f"{kind}-{preset}"), description=description)
