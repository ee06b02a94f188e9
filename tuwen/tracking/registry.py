"""The model registry: every registered model is the `challenger`; the `champion` is the best that was measured."""

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
from tuwen.evaluation.ranks import make_ranks_table
from tuwen.retrieval.vectors import read_vectors
from tuwen.tracking import lineage, revision, runs

NAME = "tuwen"
SETS = ("test", "valid")  # what a champion is judged by
CLEAN, EMBEDDINGS = Path("data/clean"), Path("embeddings")
TABLES = ("images", "texts", "pairs")
MEASURED = "measured"  # the folder of a run that holds what the next challenger is compared with


class Registered(NamedTuple):
    """What became of a model: its version, whether it is the champion now, and why."""

    version: str
    is_champion: bool
    why: str


def register(model: Path, gallery: str, params: Evaluate) -> Registered:
    """Register the model in the folder `model` as `tuwen`, to answer from the set `gallery` that it has embedded.

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
    made = lineage.find_training(model)
    with tempfile.TemporaryDirectory() as folder:
        packed, measured = Path(folder) / "gallery", Path(folder) / MEASURED
        pack(model, gallery, packed)
        is_measured = any((EMBEDDINGS / made.name / name).is_dir() for name in SETS)
        if is_measured:
            for name in SETS:
                _measure(made, name, measured / name, params)
        try:
            client, experiment = runs.connect(patience_seconds=120)
            run_id = lineage.find_run(client, experiment, made)
            version = _version(client, experiment, run_id, model, packed)
            client.set_registered_model_alias(NAME, "challenger", version.version)
            if not is_measured:
                return Registered(str(version.version), False, f"{model} was not measured on {' and '.join(SETS)}")
            client.log_artifacts(version.run_id, str(measured), MEASURED)
            return _judge(client, version, measured, params)
        except runs.list_store_errors() as error:
            raise UserError(
                f"TUWEN_TRACKING_URI: {runs.explain(error)}; start that server or correct the address, "
                "then run `tuwen track register` again"
            ) from error


def pack(model: Path, gallery: str, out: Path) -> None:
    """Write `images.npy`, `texts.npy` and `ids.json`: the set `gallery` as `model` has embedded it."""
    embedded, folder = EMBEDDINGS / model.name / gallery, CLEAN / gallery
    if not embedded.is_dir():
        there = ", ".join(sorted(path.name for path in embedded.parent.glob("*/"))) or "nothing"
        raise UserError(f"--gallery {gallery}: {embedded} is missing; {model.name} has embedded {there}")
    manifest.require_inputs(embedded, {"model": model, "set": folder})
    tables = pairs.read_pair_set(folder)
    ids = {"images": tables.images["image_id"].to_pylist(), "texts": tables.texts["text_id"].to_pylist()}
    out.mkdir(parents=True)
    for side, names in ids.items():
        read_vectors(embedded / f"{side}.npy", len(names), folder / f"{side}.parquet")
        shutil.copy(embedded / f"{side}.npy", out)
    (out / "ids.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")


def _measure(model: Path, name: str, out: Path, params: Evaluate) -> None:
    """Write the ranks of the set's queries into `out`, and the tables that say what was asked."""
    embedded = read_embedded_set(EMBEDDINGS / model.name / name, CLEAN / name, model, params.ks)
    out.mkdir(parents=True)
    ranks = make_ranks_table(embedded, answer_set(embedded, params), params.ks)
    pairs.write_table(out / "ranks.parquet", ranks)
    for table in TABLES:
        shutil.copy(CLEAN / name / f"{table}.parquet", out)


def _version(client: Any, experiment: str, run_id: str, model: Path, gallery: Path) -> Any:
    """The version of this very model with this very gallery, which is registered where there is none."""
    from tuwen.tracking import served_model

    tags = {
        "tuwen.model_sha256": revision.digest_output(model),
        "tuwen.gallery_sha256": manifest.hash_path(gallery),
    }
    if not client.search_registered_models(f"name = '{NAME}'"):
        client.create_registered_model(NAME, description="Chinese image-text retrieval: texts or pictures in")
    wanted = " and ".join([f"name = '{NAME}'", *(f"tags.`{key}` = '{value}'" for key, value in tags.items())])
    if found := client.search_model_versions(wanted, max_results=1):
        return found[0]
    model_id = served_model.log_model(run_id, experiment, model, gallery)
    return client.create_model_version(NAME, f"models:/{model_id}", run_id, tags=tags, model_id=model_id)


def _judge(client: Any, version: Any, measured: Path, params: Evaluate) -> Registered:
    aliases: Mapping[str, str] = client.get_registered_model(NAME).aliases
    number = str(version.version)
    if str(aliases.get("champion")) == number:
        return Registered(number, True, "it is the champion already")
    why = "it is the first champion"
    if "champion" in aliases:
        champion = client.get_model_version(NAME, aliases["champion"])
        with tempfile.TemporaryDirectory() as folder:
            base = Path(client.download_artifacts(champion.run_id, MEASURED, folder))
            rises, why = challenge(base, measured, params)
        if not rises:
            return Registered(number, False, f"version {champion.version} remains the champion: {why}")
    client.set_registered_model_alias(NAME, "champion", number)
    return Registered(number, True, why)


def challenge(champion: Path, challenger: Path, params: Evaluate) -> tuple[bool, str]:
    """Whether the challenger takes over, and why (not): both folders hold what `register` measured."""
    at_headline = params.model_copy(update={"ks": [compare.HEADLINE_K]})
    falls, points = list[str](), list[float]()
    try:
        for name in SETS:
            compare.require_same_test(champion / name, challenger / name)
            changes = compare.compare_ranks(
                champion / name / "ranks.parquet", challenger / name / "ranks.parquet", at_headline
            )
            falls += [f"{name}: {reason}" for reason in compare.find_regressions(changes, math.inf)]
            points += [change.points.value for change in changes if change.decides]
    except UserError as error:
        return False, f"not comparable: {error}"
    mean = sum(points) / len(points)
    said = f"R@{compare.HEADLINE_K} {mean:+.2f} points in the mean over {', '.join(SETS)} and both directions"
    return not falls and mean > 0, "; ".join([said, *falls])
