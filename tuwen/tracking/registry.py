"""The model registry: the model registered last is the `challenger`, the best one measured the `champion`."""

import json
import math
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tuwen.core.errors import UserError
from tuwen.core.params import Evaluate
from tuwen.data.formats import manifest, pairs
from tuwen.evaluation import compare
from tuwen.evaluation.answers import answer_set
from tuwen.evaluation.embedded_set import read_embedded_set
from tuwen.evaluation.evaluate import MEASURED_SETS
from tuwen.evaluation.metric import format_number
from tuwen.evaluation.models import MODELS
from tuwen.evaluation.ranks import make_ranks_table
from tuwen.evaluation.reranked.evaluate import answer_reordered
from tuwen.evaluation.reranked.scored_set import score_set
from tuwen.model.reranker import has_reranker, load_reranker
from tuwen.retrieval.packed_reranker import pack_reranker
from tuwen.retrieval.rerank import has_own_towers, require_preranker
from tuwen.retrieval.rerank_choice import read_choices
from tuwen.retrieval.vectors import read_vectors
from tuwen.tracking import lineage, revision, runs

MODEL_NAME = "tuwen"  # of the registered model
CLEAN, EMBEDDINGS, MEASURED_RESULTS = Path("data/clean"), Path("embeddings"), Path("results")
MEASURED_FOLDER = "measured"  # artifact folder of a run, with what the next challenger is compared with


class Registered(NamedTuple):
    """What became of a model: its version, whether it is the champion now, and why."""

    version: str
    is_champion: bool
    why: str


def register(model: Path, gallery: str, params: Evaluate) -> Registered:
    """Register the model in the folder `model` as `tuwen`, to answer from the set `gallery` that it has embedded.

    A re-ranker answers from what the model that it began from has embedded, unless its towers were trained, and
    carries the tokens of the gallery.

    It becomes the challenger. It becomes the champion where there is none, and where hit@5 rises in the mean over
    valid and test and both directions and in none of them falls with its whole paired interval. The same model
    with the same gallery keeps its version. A model that was not measured, being trained on every split, remains a
    challenger. Raises UserError when embeddings are missing or of another model, or MLflow is out of reach.
    """
    if not (model / manifest.MANIFEST).is_file():
        raise UserError(
            f"{model}: no {manifest.MANIFEST}, so there is no model of the pipeline; name one such as "
            "models/finetuned, which `dvc repro finetune` makes"
        )
    trained = lineage.find_trained_folder(model)
    with tempfile.TemporaryDirectory() as folder:
        packed, measured = Path(folder) / "gallery", Path(folder) / MEASURED_FOLDER
        pack(model, gallery, packed)
        is_measured = any((find_vectors(trained) / name).is_dir() for name in MEASURED_SETS)
        if is_measured:
            for name in MEASURED_SETS:
                _measure(trained, name, measured / name, params)
        try:
            client, experiment = runs.connect(patience_seconds=120)
            run_id = lineage.find_run(client, experiment, trained)
            version = _version(client, experiment, run_id, model, packed)
            client.set_registered_model_alias(MODEL_NAME, "challenger", version.version)
            if not is_measured:
                sets = " and ".join(MEASURED_SETS)
                return Registered(str(version.version), False, f"{model} was not measured on {sets}")
            client.log_artifacts(version.run_id, str(measured), MEASURED_FOLDER)
            return _choose_champion(client, version, measured, params)
        except runs.list_store_errors() as error:
            raise UserError(
                f"TUWEN_TRACKING_URI: {runs.explain(error)}; then run `tuwen track register` again"
            ) from error


def pack(model: Path, gallery: str, out: Path) -> None:
    """Write `images.npy`, `texts.npy` and `ids.json` to `out`: the set `gallery` as `model` has embedded it.

    Of a re-ranker also the tokens, and how many first answers it reorders; the vectors are of the model that it
    began from, or of its own towers where these were trained.
    """
    embedded, folder = find_vectors(model) / gallery, CLEAN / gallery
    if not embedded.is_dir():
        galleries = ", ".join(sorted(path.name for path in embedded.parent.glob("*/"))) or "nothing"
        raise UserError(f"--gallery {gallery}: {embedded} is missing; {model.name} has embedded {galleries}")
    is_embedded = not (has_reranker(model) and has_own_towers(model))  # else pack_reranker embeds it
    if has_reranker(model):
        require_preranker(embedded, model)
    else:
        manifest.require_inputs(embedded, {"model": model, "set": folder})
    tables = pairs.read_pair_set(folder)
    ids = {"images": tables.images["image_id"].to_pylist(), "texts": tables.texts["text_id"].to_pylist()}
    out.mkdir(parents=True)
    for side, names in ids.items() if is_embedded else ():
        read_vectors(embedded / f"{side}.npy", len(names), folder / f"{side}.parquet")
        shutil.copy(embedded / f"{side}.npy", out)
    (out / "ids.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    if has_reranker(model):
        pack_reranker(model, folder, read_choices(MEASURED_RESULTS / model.name / "details.json"), out)


def find_vectors(model: Path) -> Path:
    """Return the folder of the vectors that the model answers by: a re-ranker reorders those of another one."""
    reordered = MODELS[model.name].reorders if model.name in MODELS else None
    return EMBEDDINGS / (reordered or model.name)


def _measure(model: Path, name: str, out: Path, params: Evaluate) -> None:
    """Write the ranks of the set's queries into `out`, and copy the tables of the queries and true pairs there."""
    out.mkdir(parents=True)
    if has_reranker(model):
        scored = score_set(load_reranker(model), model, find_vectors(model) / name, CLEAN / name, params)
        choices = read_choices(MEASURED_RESULTS / model.name / "details.json")
        embedded, answers = scored.embedded, answer_reordered(scored, choices, params)
    else:
        embedded = read_embedded_set(find_vectors(model) / name, CLEAN / name, model, params.ks)
        answers = answer_set(embedded, params)
    ranks = make_ranks_table(embedded, answers, params.ks)
    pairs.write_table(out / "ranks.parquet", ranks)
    for table in compare.DECISIVE:
        shutil.copy(CLEAN / name / f"{table}.parquet", out)


def _version(client: Any, experiment: str, run_id: str, model: Path, gallery: Path) -> Any:
    """Return the version of this very model with this very gallery; register it where there is none."""
    from tuwen.tracking import served_model

    tags = {
        "tuwen.model_sha256": revision.digest_output(model),
        "tuwen.gallery_sha256": manifest.hash_path(gallery),
    }
    if not client.search_registered_models(f"name = '{MODEL_NAME}'"):
        description = "Chinese image-text retrieval: texts or pictures in"
        client.create_registered_model(MODEL_NAME, description=description)
    equal_tags = [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
    wanted = " and ".join([f"name = '{MODEL_NAME}'", *equal_tags])
    if versions := client.search_model_versions(wanted, max_results=1):
        return versions[0]
    model_id = served_model.log_model(run_id, experiment, model, gallery)
    return client.create_model_version(MODEL_NAME, f"models:/{model_id}", run_id, tags=tags, model_id=model_id)


def _choose_champion(client: Any, version: Any, measured: Path, params: Evaluate) -> Registered:
    """Give the version the alias `champion` where it is the first or beats the present one."""
    aliases: Mapping[str, str] = client.get_registered_model(MODEL_NAME).aliases
    number = str(version.version)
    if str(aliases.get("champion")) == number:
        return Registered(number, True, "it is the champion already")
    why = "it is the first champion"
    if "champion" in aliases:
        champion = client.get_model_version(MODEL_NAME, aliases["champion"])
        with tempfile.TemporaryDirectory() as folder:
            base = Path(client.download_artifacts(champion.run_id, MEASURED_FOLDER, folder))
            rises, why = judge_challenger(base, measured, params)
        if not rises:
            return Registered(number, False, f"version {champion.version} remains the champion: {why}")
    client.set_registered_model_alias(MODEL_NAME, "champion", number)
    return Registered(number, True, why)


def judge_challenger(champion: Path, challenger: Path, params: Evaluate) -> tuple[bool, str]:
    """Return whether the challenger takes over, and why or why not; both folders hold what `register` measured."""
    at_headline = params.model_copy(update={"ks": [compare.HEADLINE_K]})
    falls, points = list[str](), list[float]()
    try:
        for name in MEASURED_SETS:
            compare.require_same_test(champion / name, challenger / name)
            changes = compare.compare_ranks(
                champion / name / "ranks.parquet", challenger / name / "ranks.parquet", at_headline
            )
            falls += [f"{name}: {reason}" for reason in compare.find_regressions(changes, math.inf)]
            points += [change.points.value for change in changes if change.decides]
    except UserError as error:
        return False, f"not comparable: {error}"
    mean = sum(points) / len(points)
    sets = ", ".join(MEASURED_SETS)
    points_told = format_number(mean, "+.2f")
    summary = f"R@{compare.HEADLINE_K} {points_told} points in the mean over {sets} and both directions"
    return not falls and mean > 0, "; ".join([summary, *falls])
