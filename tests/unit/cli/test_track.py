"""MLflow's runs by the command line, in real processes."""

from pathlib import Path

from tests.support.commands import call


def test_track_sync_makes_runs_for_what_stands(tmp_path: Path, store: Path) -> None:
    metrics = tmp_path / "results/baseline/metrics.json"
    metrics.parent.mkdir(parents=True)
    metrics.write_text('{"test": {"t2i_hit_at_5": 0.4}}')
    assert "1 outs" in call("tuwen", "track", "sync", cwd=tmp_path).stdout
    assert (tmp_path / "runs/lineage.json").is_file()
