import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.marian import CAPTIONS, TRADITIONAL, train_pair
from tuwen.core.errors import UserError
from tuwen.core.params import Marian
from tuwen.data.augment import back_translation, paraphrase
from tuwen.data.formats.manifest import hash_file

COMMIT = "cf109095479db38d6df799875e34039d4938aaa6"
CHINESE = [caption for caption, _, _ in CAPTIONS]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Marian:
    return train_pair(tmp_path_factory.mktemp("marian"))


@pytest.fixture
def copy(pair: Marian, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pair.to_english, tmp_path / "copy"))


def test_captions_come_back_in_other_words_or_stay_with_a_reason(pair, tmp_path, capsys) -> None:
    captions = [*CHINESE, "老人在河边钓鱼" * 20, " "]
    paraphrases = paraphrase.paraphrase(captions, pair, seed=0, cache=tmp_path)
    unusable = {"老人在河边钓鱼", "白色的小猫", "红灯笼", "车从左边开过来"}
    assert set(paraphrases) == set(CHINESE) - unusable
    assert paraphrases["男人骑着自行车经过街道"] == "一个男人骑自行车沿街而行"
    assert (
        paraphrases["一只大熊猫在吃竹子"] == "一头大熊猫正在吃竹子"
    )  # without the full stop, which the caption lacks
    assert paraphrases["春天公园里开满了樱花"] == "春天,公园里的樱花开了"
    assert paraphrases["演员<人名>出席电影节"] == "演员<人名>参加了电影节"
    assert paraphrases["他的左手拿着苹果"] == "他左手握着一个苹果"
    assert paraphrases["书架上摆满了书"] == "书架上堆满了书"  # the model writes traditional characters there
    line = [line for line in capsys.readouterr().err.splitlines() if line.startswith("paraphrases")]
    reasons = "1 empty, 1 equal, 1 left or right differs, 1 not Chinese, 1 too long"
    assert line == [f"paraphrases (marian): 16 of 21 captions, {reasons}"]


def test_the_order_of_the_captions_decides_nothing(pair, tmp_path) -> None:
    translations = back_translation.translate_back(CHINESE[::-1], pair, tmp_path)
    assert [translations[caption] for caption in CHINESE] == [again for _, _, again in CAPTIONS]


def test_simplified_chinese_is_chosen_where_the_model_knows_the_token(pair) -> None:
    english, traditional, simplified = TRADITIONAL
    folder = Path(pair.to_chinese)
    assert back_translation.Translator(folder, pair, back_translation.TO_SIMPLIFIED).translate([english]) == [
        simplified
    ]
    assert back_translation.Translator(folder, pair, ">>cmn_Hant<<").translate([english]) == [traditional]
    without = back_translation.Translator(Path(pair.to_english), pair, back_translation.TO_SIMPLIFIED)
    assert without.translate(["医生给病人检查身体"]) == ["the doctor examines the patient"]


def test_a_killed_run_goes_on_at_its_next_chunk(pair, tmp_path) -> None:
    one_by_one = pair.model_copy(update={"batch_size": 1, "beams": 1})
    program = """
import os, signal, sys
from pathlib import Path
from tests.support.marian import CAPTIONS
from tuwen.data.augment import back_translation
from tuwen.core.params.data import Marian
written = []
def kill_at_the_second(event, arguments):
    if event == "os.rename" and str(arguments[0]).endswith(".part"):
        written.append(arguments)
        if len(written) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(kill_at_the_second)
params = Marian.model_validate_json(sys.argv[1])
back_translation.translate_back([caption for caption, _, _ in CAPTIONS[:17]], params, Path(sys.argv[2]))
"""
    command = [sys.executable, "-c", program, one_by_one.model_dump_json(), str(tmp_path)]
    killed = subprocess.run(command, env=os.environ | {"PYTHONPATH": "."}, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (folder,) = tmp_path.iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["00000.json", "00001.part"]
    first = (folder / "00000.json").stat()
    translations = back_translation.translate_back(CHINESE[:17], one_by_one, tmp_path)
    assert [translations[caption] for caption in CHINESE[:17]] == [again for _, _, again in CAPTIONS[:17]]
    assert sorted(path.name for path in folder.iterdir()) == ["00000.json", "00001.json"]
    assert (folder / "00000.json").stat().st_mtime_ns == first.st_mtime_ns
    back_translation.translate_back(CHINESE[:1], one_by_one, tmp_path)  # other captions have a folder of their own
    assert len(list(tmp_path.iterdir())) == 2


def test_older_weights_and_another_search_config_give_the_same(pair, copy) -> None:
    import torch
    from safetensors.torch import load_file

    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    torch.save(dict(weights), copy / "pytorch_model.bin")
    (copy / "generation_config.json").write_text('{"do_sample": true, "num_beams": 6, "max_length": 4}')
    (copy / "tokenizer_config.json").unlink()
    found = back_translation.find_model("to_english", str(copy), hash_file(copy / "pytorch_model.bin"))
    assert found.folder == copy
    translated = back_translation.Translator(copy, pair).translate(CHINESE)
    assert translated == [english for _, english, _ in CAPTIONS]


@pytest.mark.parametrize(
    ("where", "revision", "message"),
    [
        ("opus-mt-zh-en", "a" * 64, "opus-mt-zh-en is not there, .*sha256.*hub id and a commit; HF_ENDPOINT"),
        ("opus-mt-zh-en", "main", "to_english: revision: expected the commit.*40 hex.*got 'main'"),
        (None, COMMIT, rf"model.safetensors: expected the sha256 {COMMIT} .*got [0-9a-f]{{64}}"),
        (None, "0" * 64, "model.safetensors: expected the sha256 000.*to_english names"),
    ],
)
def test_a_model_that_is_not_the_pinned_one_is_refused(pair, where, revision, message) -> None:
    with pytest.raises(UserError, match=message):
        back_translation.find_model("augment.paraphrase.to_english", where or pair.to_english, revision)


@pytest.mark.parametrize("name", ["vocab.json", "source.spm", "config.json", "model.safetensors"])
def test_a_missing_file_is_named(pair, copy, name) -> None:
    (copy / name).unlink()
    with pytest.raises(UserError, match=rf"{name}.*HF_ENDPOINT"):
        back_translation.find_model("to_english", str(copy), pair.to_english_revision)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b'{"model_type": "bert"}', "model_type is 'bert', expected 'marian'"),
        ("config.json", b"{", "no MarianMT model"),
        ("vocab.json", b'{"</s>": 0, "<pad>": 1}', "<unk>"),
        ("vocab.json", b'{"</s>": 0, "<unk>": 1, "<pad>": 5000}', "goes to id 5000, the model has"),
        ("source.spm", b"not a model", "no MarianMT model"),
        ("model.safetensors", b"not weights", "no MarianMT model"),
    ],
)
def test_a_file_that_is_no_marian_model_is_refused(pair, copy, name, content, message) -> None:
    (copy / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        back_translation.Translator(copy, pair)


def test_weights_of_a_smaller_model_are_refused(pair, copy) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"encoder_layers": 2}))
    with pytest.raises(UserError, match=r"the weights lack 16 tensors, model\.encoder\.layers\.1"):
        back_translation.Translator(copy, pair)


class _Hub(BaseHTTPRequestHandler):
    """Serve as much of a hub as a fetch needs: the list of a commit's files, and the files."""

    def __init__(self, folder: Path, *arguments: object) -> None:
        self.folder = folder
        super().__init__(*arguments)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        file = self.folder / path.rpartition("/")[2]
        if path == f"/api/models/some/opus/tree/{COMMIT}":
            names = sorted(self.folder.iterdir())
            body = json.dumps(
                [{"type": "file", "path": n.name, "size": n.stat().st_size, "oid": "0" * 40} for n in names]
            )
            return self._send(body.encode(), with_body, "application/json")
        if path.startswith(f"/some/opus/resolve/{COMMIT}/") and file.is_file():
            return self._send(file.read_bytes(), with_body, "application/octet-stream")
        self.send_error(404)

    def _send(self, body: bytes, with_body: bool, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hash(body):x}"')
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(copy: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Hub, copy))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def find_in_process(home: Path, name: str, **environment: str) -> str:
    """Return what `find_model` gives, or its error, in a new process: the hub's address is read at import."""
    program = f"""
from tuwen.core.errors import UserError
from tuwen.data.augment import back_translation
try:
    print(*back_translation.find_model("to_english", "{name}", "{COMMIT}"), sep="|")
except UserError as error:
    print("error:", error)
"""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONPATH": "."}
    done = subprocess.run([sys.executable, "-c", program], env=clean | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_hub_id_is_fetched_from_a_mirror_once(pair, copy, hub, tmp_path) -> None:
    online = find_in_process(tmp_path / "home", "some/opus", HF_ENDPOINT=hub)
    folder, fingerprint = online.split("|")
    assert fingerprint.startswith(f"{COMMIT} config.json:")
    assert sorted(path.name for path in Path(folder).iterdir()) == sorted(
        ["config.json", "model.safetensors", "source.spm", "target.spm", "tokenizer_config.json", "vocab.json"]
    )
    assert back_translation.Translator(Path(folder), pair).translate(["小狗趴在沙发上睡觉"]) == [
        "the puppy sleeps on the sofa"
    ]
    assert find_in_process(tmp_path / "home", "some/opus", HF_HUB_OFFLINE="1") == online
    missing = find_in_process(tmp_path / "home", "some/other", HF_ENDPOINT=hub)
    assert missing.startswith(f"error: to_english: some/other at {COMMIT} cannot be fetched: ")
    assert "give a local path" in missing


def test_older_weights_are_fetched_where_there_are_no_others(copy, hub, tmp_path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    folder = find_in_process(tmp_path / "home", "some/opus", HF_ENDPOINT=hub).split("|")[0]
    assert (Path(folder) / "pytorch_model.bin").stat().st_size == (copy / "pytorch_model.bin").stat().st_size


def test_what_was_never_fetched_is_an_error_that_names_the_ways_out(tmp_path) -> None:
    error = find_in_process(tmp_path / "home", "some/opus", HF_HUB_OFFLINE="1")
    assert error.startswith(f"error: to_english: some/opus at {COMMIT} cannot be fetched: ")
    assert "HF_ENDPOINT names a mirror of the hub, HF_HUB_OFFLINE=1 uses what was fetched before" in error
