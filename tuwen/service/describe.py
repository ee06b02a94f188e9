"""What was computed, as JSON for people's programs: hits and maps, and what the service is."""

import base64
import io
from typing import Any
from urllib.parse import quote

from PIL import Image

from tuwen.report.heat import draw_heat
from tuwen.retrieval.attention.entity_maps import ReadPair
from tuwen.retrieval.rerank import Reordered
from tuwen.service.engine import Engine
from tuwen.service.index.item_index import ItemIndex
from tuwen.service.index.store import Hits
from tuwen.service.settings import SearchSettings

SHOWN_COLUMNS = ("source", "category", "split", "width_px", "height_px")
MAP_PX = 320  # the long side of a picture under its map
SCORE_DIGITS = 6  # of scores


def describe_hits(
    index: ItemIndex, of: str, hits: Hits, reordered: Reordered | None, page: slice
) -> list[dict[str, Any]]:
    """Return one page of the hits of a query, in the re-ranker's order where there is one."""
    places = list(range(len(hits.rows)))
    match = [] if reordered is None else reordered.match.tolist()
    if reordered is not None:
        places[: len(match)] = reordered.order.tolist()
    answers = []
    shown = places[page]
    for place, item in zip(shown, index.read_rows(of, hits.rows[shown]), strict=True):
        answer = {
            "id": item["id"],
            "score": round(float(hits.cosines[place]), SCORE_DIGITS),
            "match": round(match[place], SCORE_DIGITS) if place < len(match) else None,
            "rank_before": place + 1 if match else None,
            "caption": item["caption"],
            "image": make_image_path(item["image"]),
        }
        answers.append(answer | {name: item[name] for name in SHOWN_COLUMNS})
    return answers


def make_image_path(image_id: str | None) -> str | None:
    """Return where an image's thumbnail is had."""
    return None if image_id is None else f"/image/{quote(image_id, safe='/')}"


def describe_maps(picture: Image.Image, read: ReadPair) -> dict[str, Any]:
    """Return what a re-ranker read in a picture, each word's map over it as a PNG; `picture` becomes small."""
    picture.thumbnail((MAP_PX, MAP_PX))
    maps = [{"word": one.word, "image": _encode_png(draw_heat(picture, one.patches))} for one in read.maps]
    return {"match": round(read.match, SCORE_DIGITS), "maps": maps}


def describe_service(engine: Engine, settings: SearchSettings) -> dict[str, Any]:
    """Return what GET /about says."""
    index = engine.index
    facets, sources = index.facets, set(index.facets["source"])
    return {
        "model": engine.about,
        "index": {"digest": index.digest, **{name: index.params[name] for name in ("images", "texts", "sets")}},
        "rerank": engine.reader is not None,
        "attention": engine.reader is not None and not engine.reader.reason,
        "filters": facets,
        "licences": [one for one in index.params["licences"] if one["source"] in sources],
        "max_k": settings.max_k,
        "max_body_bytes": settings.max_body_bytes,
    }


def _encode_png(picture: Image.Image) -> str:
    with io.BytesIO() as file:
        picture.save(file, "PNG")
        return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
