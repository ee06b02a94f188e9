from tests.retrieval_world import build
from tuwen.evaluate import evaluate
from tuwen.params import load


def test_the_stage_writes_both_reports_or_one_message(tmp_path, run_stage):
    root = build(tmp_path)
    missing = run_stage(root, "report")
    assert missing.returncode == 1
    assert missing.stderr == "error: results/baseline/metrics.json: missing; run `dvc repro`\n"

    params = load(root / "params.yaml")
    for model in ("baseline", "finetuned"):
        evaluate(
            root / "embeddings" / model,
            root / "data/clean",
            root / "results" / model,
            params.evaluate,
            params.pairs,
        )
    done = run_stage(root, "report")
    assert (done.returncode, done.stderr) == (0, "")
    assert (root / "results/report.md").read_text().startswith("# Retrieval report\n")
    assert (root / "results/report.html").read_text().startswith("<!DOCTYPE html>\n")
