import csv
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuwen.core.errors import UserError
from tuwen.core.params import NoParaphrase, OpenccParaphrase, ParaphraseFile, Synonyms
from tuwen.data.augment import paraphrase
from tuwen.data.formats.text import CHINESE

CAPTIONS = [
    "男人骑着自行车经过街道",
    "厨房里的桌子上放着新鲜的水果和蔬菜",
    "著名演员<人名>出席《城市之光》首映礼",
    "工人在工厂里工作",
    "坐在左边的医生给病人检查身体",
    "3个孩子在2024年冬季的海边散步",
]


def write_ready(path: Path, rows: list[tuple[str, str]], encoding: str = "utf-8") -> ParaphraseFile:
    with open(path, "w", newline="", encoding=encoding) as file:
        csv.writer(file, lineterminator="\n").writerows([("caption", "paraphrase"), *rows])
    return ParaphraseFile(kind="file", path=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture(scope="module")
def synonyms() -> dict[str, list[str]]:
    return paraphrase.read_synonyms()


def test_kind_none_gives_none_and_no_captions_need_no_file(tmp_path) -> None:
    assert paraphrase.paraphrase(CAPTIONS, NoParaphrase(kind="none"), 0, tmp_path) == {}
    missing = ParaphraseFile(kind="file", path=str(tmp_path / "no.csv"), sha256="0" * 64)
    assert paraphrase.paraphrase(["", " \n"], missing, 0, tmp_path) == {}


@pytest.mark.parametrize(
    ("caption", "candidate", "fault"),
    [
        ("一只猫在睡觉", "一只小猫睡着了", None),
        ("一只猫在睡觉", "", "empty"),
        ("猫", "一只非常可爱的小猫安静地", None),
        ("猫", "一只非常可爱的小猫安静地睡", "too long"),
        ("一只猫在睡觉", "a sleeping cat", "not Chinese"),
        ("一只猫在睡觉", "猫 sleeping", "not Chinese"),
        ("iphone 15 pro", "iphone 15 pro max", None),
        ("他的左手拿着苹果", "他用左手握着一个苹果", None),
        ("他的左手拿着苹果", "他手里拿着一个苹果", "left or right differs"),
        ("他的左手拿着苹果", "他用右手握着一个苹果", "left or right differs"),
        ("左边是猫,右边是狗", "右边是猫,左边是狗", "left or right differs"),
        ("价格约50元", "价格50元左右", "left or right differs"),
        ("<人名>出席活动", "<人名>参加了活动", None),
        ("<人名>出席活动", "他参加了活动", "mask differs"),
        ("<人名>和<人名>出席活动", "<人名>参加了活动", "mask differs"),
        ("Nike 跑鞋，黑色", "nike 跑鞋,黑色", "equal"),
    ],
)
def test_a_candidate_that_cannot_stand_for_its_caption_has_a_fault(caption, candidate, fault) -> None:
    assert paraphrase.find_fault(caption, candidate) == fault


def test_words_of_taiwan_come_in_simplified_characters(tmp_path, capsys) -> None:
    captions = [
        "这个软件的图标是鼠标",
        "男人骑着自行车,旁边是出租车",
        "里面的面包和她的头发",
        "一只大熊猫在吃竹子",
    ]
    assert paraphrase.paraphrase(captions, OpenccParaphrase(kind="opencc"), 0, tmp_path) == {
        "这个软件的图标是鼠标": "这个软体的图示是滑鼠",
        "男人骑着自行车,旁边是出租车": "男人骑着脚踏车,旁边是计程车",
    }
    assert capsys.readouterr().err == "paraphrases (opencc): 2 of 4 captions, 2 equal\n"


def test_synonyms_change_words_but_no_names_numbers_or_sides(synonyms, tmp_path) -> None:
    paraphrases = paraphrase.paraphrase(CAPTIONS, Synonyms(kind="synonyms", share=1.0), 0, tmp_path)
    assert list(paraphrases) == sorted(paraphrases)
    assert paraphrases["男人骑着自行车经过街道"] in ("男子骑着自行车经过大街", "男子骑着自行车经过马路")
    assert "左边" in paraphrases["坐在左边的医生给病人检查身体"]
    assert paraphrases["3个孩子在2024年冬季的海边散步"].startswith("3个")
    assert "在2024年冬天的海边散步" in paraphrases["3个孩子在2024年冬季的海边散步"]
    assert not any("左" in word or "右" in word for word in synonyms)
    named = "<孩子>和男人在《厨房》海报上,“工厂”"
    assert paraphrase.replace_by_synonyms([named], synonyms, 1.0, 0) == {
        named: "<孩子>和男子在《厨房》海报上,“工厂”"
    }


def test_the_share_of_replaced_words_is_that_of_the_params(synonyms) -> None:
    words = ["工人", "工厂", "男人", "厨房", "孩子", "街道", "医生"]
    caption = "、".join([*words, "一只大熊猫"])
    counts = {}
    for share in (0.0, 0.01, 0.5, 1.0):
        reworded = paraphrase.replace_by_synonyms([caption], synonyms, share, 0)[caption].split("、")
        counts[share] = sum(word != again for word, again in zip(words, reworded, strict=False))
        assert reworded[-1] == "一只大熊猫"
    assert counts == {0.0: 0, 0.01: 1, 0.5: 4, 1.0: 7}


def test_a_caption_is_reworded_by_seed_and_caption_alone(synonyms, tmp_path) -> None:
    alone = {caption: paraphrase.replace_by_synonyms([caption], synonyms, 0.5, 3)[caption] for caption in CAPTIONS}
    assert paraphrase.replace_by_synonyms(CAPTIONS[::-1], synonyms, 0.5, 3) == alone
    reworded = {tuple(paraphrase.replace_by_synonyms(CAPTIONS, synonyms, 0.5, seed).values()) for seed in range(6)}
    assert len(reworded) > 3
    program = """
import sys
from tuwen.data.augment import paraphrase
print(paraphrase.replace_by_synonyms(sys.argv[1:], paraphrase.read_synonyms(), 0.5, 3))
"""
    environment = {"PYTHONPATH": ".", "PYTHONHASHSEED": "7", "LC_ALL": "POSIX", "PYTHONIOENCODING": "utf-8"}
    environment |= {"TMPDIR": str(tmp_path), "HOME": str(tmp_path)}
    command = [sys.executable, "-c", program, *CAPTIONS]
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == str(alone)
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []  # the segmenter keeps no files anywhere


PARTS = [*"男人工厂左右<>《》「」“”。,\n 3a", "自行车", "<人名>", "厨房", "医生"]


@given(parts=st.lists(st.sampled_from(PARTS), max_size=12))
def test_what_is_no_word_stays_in_its_place(synonyms, parts: list[str]) -> None:
    caption = "".join(parts)
    reworded = paraphrase.replace_by_synonyms([caption], synonyms, 1.0, 0)[caption]
    assert paraphrase.replace_by_synonyms([caption], synonyms, 0.0, 0)[caption] == caption
    assert CHINESE.sub("", reworded) == CHINESE.sub("", caption)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
def test_ready_paraphrases_are_read_and_those_with_a_fault_dropped(tmp_path, capsys, encoding) -> None:
    params = write_ready(
        tmp_path / "ready.csv",
        [
            ("男人骑着自行车经过街道", "一个男人，骑车\n沿街而行。"),
            ("男人骑着自行车经过街道", "第二行不算"),
            ("Ｎｉｋｅ  跑鞋", "一双Nike跑鞋"),
            ("工人在工厂里工作", "工人在工厂里工作"),
            ("不在数据里", "也不在"),
        ],
        encoding,
    )
    captions = ["男人骑着自行车经过街道", "nike 跑鞋", "Nike 跑鞋", "工人在工厂里工作", "没有改写的图"]
    assert paraphrase.paraphrase(captions, params, 0, tmp_path) == {
        "Nike 跑鞋": "一双Nike跑鞋",
        "nike 跑鞋": "一双nike跑鞋",
        "男人骑着自行车经过街道": "一个男人,骑车沿街而行",
    }
    lines = capsys.readouterr().err.splitlines()
    assert lines[-2] == f"{params.path}: 5 rows, 4 captions, 1 of them not in the data"
    assert lines[-1] == "paraphrases (file): 3 of 5 captions, 1 empty, 1 equal"


def test_another_file_than_the_pinned_one_is_refused(tmp_path) -> None:
    params = write_ready(tmp_path / "ready.csv", [("工人在工厂里工作", "工人在厂里干活")])
    with open(params.path, "a") as file:
        file.write("\n")
    message = rf"ready.csv: sha256 is [0-9a-f]{{64}}, expected {params.sha256}; .*augment.paraphrase.sha256"
    with pytest.raises(UserError, match=message):
        paraphrase.paraphrase(CAPTIONS, params, 0, tmp_path)
    missing = params.model_copy(update={"path": str(tmp_path / "no.csv")})
    with pytest.raises(UserError, match=r"augment.paraphrase.path: .*no.csv not found.*caption,paraphrase"):
        paraphrase.paraphrase(CAPTIONS, missing, 0, tmp_path)


def test_a_file_without_the_columns_is_refused(tmp_path) -> None:
    (tmp_path / "ready.csv").write_text("text,paraphrase\n工人在工厂里工作,工人在厂里干活\n", encoding="utf-8")
    digest = hashlib.sha256((tmp_path / "ready.csv").read_bytes()).hexdigest()
    params = ParaphraseFile(kind="file", path=str(tmp_path / "ready.csv"), sha256=digest)
    with pytest.raises(UserError, match="lacks \\['caption'\\]"):
        paraphrase.paraphrase(CAPTIONS, params, 0, tmp_path)
