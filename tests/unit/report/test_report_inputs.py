import json
import shutil

import numpy as np
import pyarrow as pa
import pytest

from tests.support.report_inputs import write
from tuwen.core.errors import UserError
from tuwen.data.formats import pairs


def spoil_ranks(root):
    shutil.copy(root / "results/baseline/ranks.parquet", root / "kept.parquet")
    table = pairs.read_table(root / "kept.parquet")
    ids = pa.array(["别处", *table["query_id"].to_pylist()[1:]])  # as many queries, one of them another
    place = table.schema.get_field_index("query_id")
    pairs.write_table(root / "results/baseline/ranks.parquet", table.set_column(place, "query_id", ids))


def spoil_cosines(root):
    path = root / "results/baseline/pair_cosines.parquet"
    table = pairs.read_table(path)
    pairs.write_table(path, table.set_column(1, "image_id", pa.array(["别处.png"] * len(table))))


def change(name, edit, model="finetuned"):
    """A fault of a JSON file among the model's results: `edit` changes its body in place."""

    def spoil(root):
        path = root / "results" / model / name
        body = json.loads(path.read_text())
        edit(body)
        path.write_text(json.dumps(body))

    return spoil


def spoil_embeddings(root):
    path = root / "embeddings/baseline/test/texts.npy"
    np.save(path, np.load(path)[:-1])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "results/baseline/metrics.json").unlink(), r"baseline/metrics\.json: missing"),
        (lambda root: (root / "data/clean/quality.json").write_text("{"), r"quality\.json: not valid JSON"),
        (lambda root: (root / "models/finetuned/training.json").unlink(), r"finetuned/training\.json: missing"),
        (
            lambda root: (root / "results/finetuned/ranks.parquet").unlink(),
            r"ranks\.parquet: this table is missing",
        ),
        (spoil_ranks, "hold different queries"),
        (lambda root: (root / "results/baseline/details.json").unlink(), r"baseline/details\.json: missing; run"),
        (lambda root: (root / "results/finetuned/zero_shot.json").unlink(), r"finetuned/zero_shot\.json: missing"),
        (
            change("metrics.json", lambda body: body["test"].pop("mean_recall")),
            r"finetuned/metrics\.json: test lacks mean_recall; remove the file and run `dvc repro`",
        ),
        (change("metrics.json", lambda body: body.pop("test")), r"metrics\.json: no figures of the test split"),
        (
            change("metrics.json", lambda body: body["test"].pop("i2t_qbnorm_hit_at_10_low"), "baseline"),
            r"baseline/metrics\.json: test lacks i2t_qbnorm_hit_at_10_low",
        ),
        (
            change("details.json", lambda body: body["hubs"].pop("i2t")),
            r"finetuned/details\.json: hubs\.i2t: field required; remove it and run `dvc repro`",
        ),
        (
            change("details.json", lambda body: body["score_histogram"]["edges"].pop()),
            r"details\.json: score_histogram: .*\d+ edges for \d+ true and \d+ false counts",
        ),
        (
            change(
                "details.json",
                lambda body: body["score_histogram"].update(true=[0] * len(body["score_histogram"]["true"])),
            ),
            r"details\.json: score_histogram: .*no true pair is counted",
        ),
        (
            change("details.json", lambda body: body["hubs"]["t2i"]["top"][0].update(id="别处.png")),
            r"finetuned/details\.json: hubs name items that are not in clean/test",
        ),
        (
            change("details.json", lambda body: body["gallery_curve"]["t2i"][0].pop("hit_at_5")),
            r"details\.json: gallery_curve\.t2i lacks a figure at one of k = \[1, 5, 10\]",
        ),
        (
            change("zero_shot.json", lambda body: body["confusion"].pop()),
            r"zero_shot\.json: .*confusion must have 5 rows of 5 counts",
        ),
        (
            change("zero_shot.json", lambda body: body["per_class"].pop()),
            r"zero_shot\.json: .*per_class must name each of the classes once",
        ),
        (
            change("zero_shot.json", lambda body: body["per_class"][0].update({"class": "别处"})),
            r"zero_shot\.json: .*per_class must name each of the classes once",
        ),
        (
            change("zero_shot.json", lambda body: body["classes"].reverse()),
            r"zero_shot\.json of baseline and finetuned name different classes",
        ),
        (spoil_cosines, r"baseline/pair_cosines\.parquet: names pairs that are not in clean/bank"),
        (spoil_embeddings, r"texts\.npy: 27 rows found, 28 expected"),
        (lambda root: shutil.rmtree(root / "data/clean/test/shards"), r"000000\.tar: this shard is missing"),
    ],
)
def test_missing_or_unfit_inputs_are_named(world, tmp_path, spoil, message):
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    spoil(tmp_path)
    with pytest.raises(UserError, match=message):
        write(tmp_path)


def test_other_ks_than_measured_are_refused(world, tmp_path):
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "params.yaml"
    path.write_text(path.read_text().replace("ks: [1, 5, 10]", "ks: [1, 3, 5]"))
    with pytest.raises(UserError, match=r"metrics\.json: no figures at k = 3 \(params\.yaml: evaluate\.ks\)"):
        write(tmp_path)
