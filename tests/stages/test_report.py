import shutil

from tests.support.report_inputs import make


def test_the_stage_writes_both_reports_or_one_message(tmp_path, run_stage):
    root = make(tmp_path)
    kept = shutil.move(root / "results/baseline/metrics.json", root / "kept.json")
    missing = run_stage(root, "report")
    assert missing.returncode == 1
    assert missing.stderr == "error: results/baseline/metrics.json: missing; run `dvc repro`\n"

    shutil.move(kept, root / "results/baseline/metrics.json")
    done = run_stage(root, "report")
    assert (done.returncode, done.stderr) == (0, "")
    assert (root / "results/report.md").read_text().startswith("# Retrieval report\n")
    assert (root / "results/report.html").read_text().startswith("<!DOCTYPE html>\n")
