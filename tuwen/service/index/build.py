"""Sets that a model has embedded -> an index: `images.npy`, `texts.npy` and the items of their rows.

    index/images.npy, texts.npy      unit rows [N, D], as embed.dtype keeps them
    index/images.scale.npy, …        of int8 and binary, and .signs.npy of binary (retrieval/quantised/codes.py)
    index/images.arrow, texts.arrow  items.ITEM_SCHEMA, a row for each vector; Arrow's file format, to be mapped
    index/reliability.json           what is said of first answers against what comes true (growth.py)
    index/manifest.json              the model and the sets by digest, dimension, metric, counts, settings

A set that the model has not embedded by a stage of its own, as the corpus, is embedded here.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from tuwen.core.errors import UserError
from tuwen.core.params import Embed, Index
from tuwen.data.formats import manifest, pairs
from tuwen.data.formats.json_file import write_json
from tuwen.data.formats.text import is_simplifying
from tuwen.model.reranker import has_reranker
from tuwen.retrieval.calibration import RELIABILITY, Calibration, read_calibrations
from tuwen.retrieval.embed import embed_set
from tuwen.retrieval.rerank import PRERANKER, has_own_towers, require_preranker
from tuwen.retrieval.rerank_choice import read_choices
from tuwen.service.index.growth import ASKING_SET, SearchedSet, Sureness, measure_sureness
from tuwen.service.index.items import SIDES, list_items, make_ids_unique
from tuwen.service.index.vector_files import StoredVectors, write_vectors

INDEX_WORK = Path(".cache/index")
METRIC = "cosine"


class Project(NamedTuple):
    """The folders that an index is made from."""

    data: Path
    models: Path
    embeddings: Path
    results: Path


class IndexedSet(NamedTuple):
    """A set of an index: what may be found in it, and where its vectors lie, by side."""

    name: str
    items: dict[str, pa.Table]  # items.ITEM_SCHEMA
    vectors: dict[str, StoredVectors]


def choose_answering_model(models: Path) -> Path:
    """Return the folder of the model that answers searches: the re-ranked one where there is one."""
    reranked = models / "reranked"
    return reranked if has_reranker(reranked) else models / PRERANKER


def write_index(project: Project, out: Path, params: Index, embed: Embed) -> None:
    """Write the index of the answering model over the sets of `params` into the folder `out`.

    Raises UserError where embeddings are of another model or set, where an image cannot be read, and where the
    sets hold nothing.
    """
    model = choose_answering_model(project.models)
    sets = [_index_set(project, model, name, embed) for name in params.sets]
    unique = make_ids_unique([(one.name, one.items) for one in sets])
    out.mkdir(parents=True, exist_ok=True)
    counts = {}
    for side in SIDES:
        items = pa.concat_tables([one[side] for one in unique])
        if not len(items):
            raise UserError(f"params.yaml: index.sets: {', '.join(params.sets)} hold no {side}; name others")
        _, dimension = write_vectors(out, side, [one.vectors[side] for one in sets], embed.dtype)
        _write_table(out / f"{side}.arrow", items)
        counts[side] = len(items)
    curves = read_calibrations(project.results / model.name / "details.json")
    sureness = _measure_sureness(project, model, sets, embed, curves)
    write_json(out / RELIABILITY, sureness.reliability)
    inputs = {"model": model} | {f"set-{name}": project.data / "clean" / name for name in params.sets}
    described = {"metric": METRIC, "dimension": dimension, "dtype": embed.dtype, "model": model.name}
    settings = {
        **params.model_dump(),
        "reranking": _read_reranking(project, model),
        "calibration": {
            direction: {order: one._asdict() for order, one in by.items()} for direction, by in curves.items()
        },
        "growth": {direction: one._asdict() for direction, one in sureness.growth.items()},
    }
    manifest.write_manifest(out, inputs, described | counts | settings)
    shutil.rmtree(INDEX_WORK, ignore_errors=True)


def _index_set(project: Project, model: Path, name: str, embed: Embed) -> IndexedSet:
    folder = project.data / "clean" / name
    tables = pairs.read_pair_set(folder)
    listed = list_items(project.data, name, tables)
    embedded = _find_embedded(project, model, name, embed)
    vectors = {
        side: StoredVectors(
            embedded / f"{side}.npy", folder / f"{side}.parquet", len(getattr(tables, side)), listed[side].rows
        )
        for side in SIDES
    }
    return IndexedSet(name, {side: items.table for side, items in listed.items()}, vectors)


def _find_embedded(project: Project, model: Path, name: str, embed: Embed) -> Path:
    """Return the folder of the model's vectors of a set, which is embedded here where no stage does so."""
    folder, embedded = project.data / "clean" / name, project.embeddings / PRERANKER / name
    is_reordering = has_reranker(model)
    if embedded.is_dir() and not (is_reordering and has_own_towers(model)):
        manifest.require_inputs(embedded, {"set": folder})
        if is_reordering:
            require_preranker(embedded, model)
        else:
            manifest.require_inputs(embedded, {"model": model})
        return embedded
    made = INDEX_WORK / model.name / name
    embed_set(model, folder, made, embed, processes=None)  # what was killed goes on from its own parts
    return made


def _read_reranking(project: Project, model: Path) -> Mapping[str, Any] | None:
    """Return by direction how deep the model's re-ranker reads and what the cosine weighs; None without one."""
    if not has_reranker(model):
        return None
    choices = read_choices(project.results / model.name / "details.json")
    return {direction: choice._asdict() for direction, choice in choices.items()}


def _measure_sureness(
    project: Project,
    model: Path,
    sets: Sequence[IndexedSet],
    embed: Embed,
    curves: Mapping[str, Mapping[str, Calibration]],
) -> Sureness:
    """Return how sure first answers are in an index of these sets; valid is embedded here if no stage does so."""
    clean = project.data / "clean"
    searched = {one.name: SearchedSet(clean / one.name, one.vectors) for one in sets}
    asked = searched.get(ASKING_SET)
    if asked is None:
        asked = SearchedSet(clean / ASKING_SET, _index_set(project, model, ASKING_SET, embed).vectors)
    return measure_sureness(searched, asked, curves, is_simplifying(model))


def _write_table(path: Path, table: pa.Table) -> None:
    """Write Arrow's file format, in one batch, so that a column is one piece of memory."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table.combine_chunks())
