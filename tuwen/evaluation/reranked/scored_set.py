"""A set as a re-ranker sees it: the first answers of both directions, each pair with its probability of a match."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from tuwen.core.errors import UserError
from tuwen.core.params import Evaluate
from tuwen.data.formats import manifest, pairs
from tuwen.data.formats.directions import DIRECTIONS
from tuwen.data.formats.images import make_pixel_tensor
from tuwen.data.formats.json_file import read_json
from tuwen.data.formats.text import load_tokenizer, tokenize
from tuwen.evaluation.answers import count_answers
from tuwen.evaluation.embedded_set import EmbeddedSet, read_embedded_set
from tuwen.evaluation.reranked.matching import list_judged_pairs
from tuwen.model.reranker import ReRanker
from tuwen.retrieval.encode import stream_images
from tuwen.retrieval.metrics import rank_true_items
from tuwen.retrieval.reordering import Scored
from tuwen.retrieval.search import top_k
from tuwen.retrieval.vectors import Rows, Vectors


class ScoredSet(NamedTuple):
    """A set's vectors by the dual encoder, and what the re-ranker says of its first answers."""

    embedded: EmbeddedSet
    ranks: Mapping[str, tuple[Rows, Rows]]  # direction -> what `rank_true_items` returns
    scored: Mapping[str, Scored]  # by direction
    pair_seconds: Mapping[str, float]  # direction -> what a pair took


def score_set(reranker: ReRanker, model: Path, embedded: Path, folder: Path, params: Evaluate) -> ScoredSet:
    k = read_json(model / manifest.MANIFEST)["params"]["rerank"]["k"]
    require_preranker(embedded, model)
    manifest.require_inputs(embedded, {"set": folder})
    own = read_embedded_set(embedded, folder, None, params.ks)
    score = _make(reranker, model, folder)
    ranks, scored, seconds = {}, {}, {}
    for name, direction in DIRECTIONS.items():
        task = own.make_task(direction)
        ranks[name] = rank_true_items(task)
        depth = min(k, len(task.gallery))
        first, cosine = top_k(task.queries, task.gallery, max(depth, count_answers(own, params)))
        q = np.repeat(np.arange(len(first)), depth)
        i = first[:, :depth].ravel()
        began = time.perf_counter()
        match = score(i, q) if name == "t2i" else score(q, i)
        seconds[name] = (time.perf_counter() - began) / len(q)
        scored[name] = Scored(first, cosine, match.reshape(len(first), depth))
    if len(own.unfit[0]):
        own = own._replace(match=score(*list_judged_pairs(own)))
    return ScoredSet(own, ranks, scored, seconds)


def require_preranker(embedded: Path, model: Path) -> None:
    """Raise UserError unless the vectors in `embedded` are of the dual encoder that the re-ranker was trained over."""
    found, expected = manifest.read_inputs(embedded).get("model"), manifest.read_inputs(model).get("finetuned")
    if found != expected:
        raise UserError(
            f"{embedded / manifest.MANIFEST}: made from another model: it names {found}, but {model} re-ranks what "
            f"{expected} finds; run `dvc repro`"
        )


def _make(reranker, model, folder):
    tables = pairs.read_pair_set(folder)
    dual, cross = reranker
    with torch.inference_mode():
        images = list(stream_images(folder.parent.parent, tables, dual.config["image"]["size_px"]))
        stored = cross.compress_image(dual.encode_image_tokens(make_pixel_tensor(images))[1])
        tok = load_tokenizer(model / "vocab.txt")
        ids, mask = tokenize(tok, [c or "" for c in tables.texts["caption"].to_pylist()], dual.config["text"]["max_tokens"])
        text = dual.encode_text_tokens(ids, mask)[1]

    def score(image: Rows, text_rows: Rows) -> Vectors:
        out = []
        with torch.inference_mode():
            for s in range(0, len(image), 256):
                i, t = torch.from_numpy(image[s : s + 256]), torch.from_numpy(text_rows[s : s + 256])
                out.append(cross.score_pairs(stored[i], text[t], mask[t]).numpy())
        return np.concatenate(out)

    return score
