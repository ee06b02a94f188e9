"""What is laid beside an evaluation's figures in MLflow: its curves, and the report that was written of it."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tuwen.tracking.revision import read_hashes

RANKS = "ranks.parquet"
REPORTS = ("report.md", "report.html")
# The page's colours are its style sheet's (tuwen/page.html.j2); a picture that stands alone carries its own.
COLOURS = {"baseline": "#8b93a1", "finetuned": "#0b6bcb", "true": "#0f7040", "false": "#b4532a"}


def draw_charts(result: Path) -> dict[str, str]:
    """Name -> SVG of the evaluation in `result`: hit@k by size of the gallery, and the cosines of its pairs."""
    from tuwen.evaluation.findings import Details, read_checked
    from tuwen.report import curves

    if not (result / "details.json").is_file():
        return {}
    details = read_checked(result / "details.json", Details)
    drawn = {f"scores-{result.name}": curves.draw_scores({result.name: details.score_histogram})[result.name]}
    for way in ("t2i", "i2t"):
        points = getattr(details.gallery_curve, way)
        ks = sorted(int(name.removeprefix("hit_at_")) for name in points[0] if name != "gallery")
        drawn[f"gallery-{way}"] = curves.draw_gallery_curve(f"gallery_{way}", {result.name: points}, ks)
    return {f"{name}.svg": _alone(svg) for name, svg in drawn.items()}


def list_files(result: Path, stages: Mapping[str, Any]) -> Iterator[Path]:
    """The files of the evaluation in `result`; the report only where dvc.lock says that it tells of this one."""
    yield from (
        path for path in (result / "metrics.json", result / "details.json", result / RANKS) if path.is_file()
    )
    measured = str(result / "metrics.json")
    told = read_hashes(stages.get("report", {}), "deps").get(measured)
    if told and told == read_hashes(stages.get(f"evaluate@{result.name}", {}), "outs").get(measured):
        yield from (path for path in (result.parent / name for name in REPORTS) if path.is_file())


def _alone(svg: str) -> str:
    """An SVG element of a page as a file: dark on white, whatever the page around it."""
    svg = re.sub(r"var\(--(\w+)\)", lambda found: COLOURS[found[1]], svg).replace("currentColor", "#1c2330")
    return svg.replace("<svg ", '<svg style="background:#fff" ', 1)
