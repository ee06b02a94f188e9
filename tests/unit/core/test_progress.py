"""Lines of progress: what is printed is what is read back."""

import pytest

from tuwen.core import progress


def lines_of(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, label: str, total: int
) -> list[str]:
    monkeypatch.setattr(progress, "LINE_EVERY_SECONDS", -1.0)
    assert list(progress.follow(range(total), label, total)) == list(range(total))
    return capsys.readouterr().err.splitlines()


def test_what_follow_prints_is_read_back(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = [progress.parse_progress(line) for line in lines_of(capsys, monkeypatch, "ingest art: 其一", 4)]
    assert shares == [("ingest art: 其一", done / 4) for done in (1, 2, 3, 4)]


def test_an_item_may_hold_many_of_what_is_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_SECONDS", -1.0)
    batches = [["甲", "乙"], [], ["丙"]]
    assert list(progress.follow(batches, "augment pairs", 3, len)) == batches
    assert capsys.readouterr().err.splitlines() == [f"augment pairs: {done}/3" for done in (2, 2, 3)]


def test_a_training_counts_its_epochs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    shares = [progress.parse_progress(line) for line in lines_of(capsys, monkeypatch, "epoch 2/4", 2)]
    assert shares == [("epoch 2/4", 0.375), ("epoch 2/4", 0.5)]
    assert progress.parse_progress("epoch 4/4: loss 0.51, lr 1e-05, temperature 0.07") == ("epoch 4/4", 1.0)


@pytest.mark.parametrize(
    "line", ["", "Running stage 'words':", "decode: 30", "decode: 3/0", "see https://x.org: 3/4 done", "3/4"]
)
def test_other_lines_say_nothing(line: str) -> None:
    assert progress.parse_progress(line) is None


def test_a_pace_gives_pairs_per_second_and_the_share_of_time_spent_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = iter([0.0, 0.0, 1.0, 4.0, 5.0, 8.0, 8.0, 10.0])  # begin; then before and after each of three waits
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(seconds))
    pace = progress.Pace()
    assert pace.compute_speeds(32) == {}
    assert list(pace.time_batches(iter(["first", "second"]))) == ["first", "second"]
    assert pace.compute_speeds(32) == {"pairs_per_second": 6.4, "data_wait_share": 0.2}
