"""What is attached to an evaluation's run in MLflow: its charts, and the report that was written of it."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tuwen.data.formats.directions import DIRECTIONS
from tuwen.tracking.revision import read_hashes

RANKS = "ranks.parquet"
REPORTS = ("report.md", "report.html")
# In a page its style sheet has the colours (report/templates/page.html.j2); a chart that stands alone has its own.
PAIR_COLOURS = {"true": "#0f7040", "false": "#b4532a"}


Costs = Mapping[str, Mapping[int, float]]  # direction -> depth of re-ranking -> milliseconds per query


def draw_charts(result: Path, costs: Costs | None = None) -> dict[str, str]:
    """Return file name -> SVG of the evaluation in `result`: hit@k by gallery size, cosines of its pairs.

    Of a re-ranker also hit@k by depth, with what each cost where `costs` tells.
    """
    from tuwen.data.formats.checked_json import read_checked
    from tuwen.evaluation.details import Details
    from tuwen.report import curves

    if not (result / "details.json").is_file():
        return {}
    details = read_checked(result / "details.json", Details)
    drawn = {}
    if details.score_histogram:
        drawn[f"scores-{result.name}"] = curves.draw_scores({result.name: details.score_histogram})[result.name]
    for direction in DIRECTIONS:
        points = details.gallery_curve[direction]
        ks = sorted(int(name.removeprefix("hit_at_")) for name in points[0] if name != "gallery")
        drawn[f"gallery-{direction}"] = curves.draw_gallery_curve(
            f"gallery_{direction}", {result.name: points}, ks
        )
        if details.reranking:
            curve = details.reranking[direction].curve
            drawn[f"depth-{direction}"] = curves.draw_depth_curve(
                f"depth_{direction}", result.name, curve, ks, (costs or {}).get(direction)
            )
    return {f"{name}.svg": _make_standalone(svg) for name, svg in drawn.items()}


def list_files(result: Path, stages: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the files of the evaluation in `result`; the report only where dvc.lock names this one as its dep."""
    yield from (
        path for path in (result / "metrics.json", result / "details.json", result / RANKS) if path.is_file()
    )
    measured = str(result / "metrics.json")
    reported = read_hashes(stages.get("report", {}), "deps").get(measured)
    if reported and reported == read_hashes(stages.get(f"evaluate@{result.name}", {}), "outs").get(measured):
        yield from (path for path in (result.parent / name for name in REPORTS) if path.is_file())


def _make_standalone(svg: str) -> str:
    """Return an SVG element of a page as a file: dark on white."""
    from tuwen.evaluation.models import MODELS

    colours = PAIR_COLOURS | {name: model.light for name, model in MODELS.items()}
    svg = re.sub(r"var\(--(\w+)\)", lambda found: colours[found[1]], svg).replace("currentColor", "#1c2330")
    return svg.replace("<svg ", '<svg style="background:#fff" ', 1)
