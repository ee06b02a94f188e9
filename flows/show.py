"""What a run page shows: the plan before, and after it recall, a gallery of answers and the way to MLflow."""

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
    """Every stage in graph order: will it run, and why."""
    rows = [
        (stage, "**runs**" if stage in reasons else "—", plain(reasons.get(stage) or _at_rest(stage in wanted)))
        for stage in nx.topological_sort(graph)
    ]
    count = f"{len(reasons)} of {len(rows)} stages run"
    _show("plan", preset, f"Preset `{preset}`: {count}.", table(("stage", "", "why"), rows))


def _at_rest(wanted: bool) -> str:
    return "up to date" if wanted else "not asked for"


def show_results(preset: str) -> None:
    """Recall of both models on test and some answers of the fine-tuned one, from the current directory's results.

    Raises UserError where a result is missing.
    """
    from tuwen.core.params import load_params
    from tuwen.data.formats import pairs
    from tuwen.evaluation import headline
    from tuwen.retrieval.vectors import read_set_vectors
    from tuwen.report import examples

    params, results, clean = load_params(), Path("results"), Path("data/clean/test")
    ranks = headline.read_ranks(results)
    lines = headline.make_lines(headline.read_metrics(results, params.evaluate.ks), ranks, params.evaluate)
    _show("recall", preset, "hit@k (R@k) on the test split with 95 % intervals.", recall_table(lines))
    test = pairs.read_pair_set(clean)
    vectors = {
        model: read_set_vectors(Path("embeddings") / model / "test", clean, test) for model in headline.MODELS
    }
    shown = examples.collect_examples(Path("data"), test, vectors, ranks, GALLERY_QUERIES, params.evaluate.seed)
    _show("gallery", preset, "Test texts drawn at random, and the fine-tuned model's answers.", gallery(shown))


def recall_table(lines: Iterable[Any]) -> str:
    """`headline.make_lines` as a Markdown table."""
    from tuwen.evaluation.headline import DIRECTIONS, MODELS

    rows = [
        (
            f"{DIRECTIONS[line.direction]} R@{line.k}",
            *(f"{one.value:.1f} % [{one.low:.1f}, {one.high:.1f}]" for one in line.models.values()),
            f"{line.gain.value:+.1f} [{line.gain.low:+.1f}, {line.gain.high:+.1f}]",
        )
        for line in lines
    ]
    return table(("test split", *MODELS.values(), "gain, points"), rows)


def gallery(shown: Any) -> str:
    """Texts, each with a Markdown table of the first pictures found for it; the rank of a true one is ticked."""
    from tuwen.report.examples import SHOWN

    parts = []
    for example in shown.queries["t2i"]["random"]:
        answers = example.answers["finetuned"][:SHOWN]
        ranks = [f"{one.rank} ✔" if one.is_true else str(one.rank) for one in answers]
        pictures = [f"![{one.rank}]({shown.pictures[one.row]})" for one in answers]
        parts += [f"**{plain(shown.captions[example.row])}**", table(ranks, [pictures])]
    return "\n\n".join(parts)


def show_mlflow(preset: str) -> None:
    """A link to the runs, where MLflow has an address; else the command that opens its store."""
    from tuwen.tracking import runs

    address = urlsplit(runs.get_address())
    if address.scheme not in ("http", "https"):
        _show("mlflow", preset, "Where the runs are.", "`make mlflow` opens every training and evaluation.")
        return
    try:
        _, experiment = runs.connect()
    except runs.list_store_errors() as error:
        raise UserError(f"TUWEN_TRACKING_URI: {runs.explain(error)}") from error
    place = address._replace(netloc=address.netloc.rpartition("@")[2], fragment=f"/experiments/{experiment}")
    _show("mlflow", preset, "Where the runs are.", f"[Every training and evaluation]({place.geturl()})")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of cells that are Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows))


def plain(text: str) -> str:
    """A text as Markdown that shows it as it is, on one line, whatever it holds."""
    return re.sub(r"([\\`*_\[\]<>|~&])", r"\\\1", " ".join(text.split()))


def _show(kind: str, preset: str, description: str, markdown: str) -> None:
    create_markdown_artifact(markdown, key=slugify(f"{kind}-{preset}"), description=description)
