"""A training step against public scripts, in one run: pairs/s, MFU, peak memory, share of waiting for data.

    .venv/bin/python benchmarks/train.py cpu      # a small model: seven paired rounds
    .venv/bin/python benchmarks/train.py gpu      # ViT-L/14 + RoBERTa-base; runs on a bare GPU machine
    .venv/bin/python benchmarks/train.py input    # stored views from shards: pairs/s of 0, 2 and 4 workers
    .venv/bin/python benchmarks/train.py shards   # the step of `cpu` or `gpu` fed from stored views
    … --tiny                                      # at shapes of seconds: shows that it works

Run it alone on the machine. A bare machine has torch, transformers, numpy, pillow; set
PYTHONPATH to the repository there.
All contestants get the same tensors: pixels, and captions padded to 52 tokens, as cn_clip pads them.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tuwen import model, optim, shapes, step
from tuwen.compat import declare_torchvision_ops
from tuwen.progress import Pace

PADDED_TOKENS = 52  # Chinese-CLIP's context
CLS, SEP, FIRST_WORD = 101, 102, 670  # of its vocabulary
LR, WEIGHT_DECAY, CLIP = 5e-5, 1e-3, 1.0
PAPER_PAIRS = 4_000_000  # eight views of 50,000 pairs, ten epochs
DEVICE = model.device()


class Batch(NamedTuple):
    """What a step takes; tuwen/loader.py has it with the pairs' names, but needs tables."""

    pixels: Tensor
    ids: Tensor
    mask: Tensor
    positive_id: Tensor
    caption_id: Tensor


class Scale(NamedTuple):
    """What is measured: the towers, pairs a step, steps a round, rounds."""

    config: dict[str, Any]
    batch_size: int
    steps: int
    rounds: int


def small() -> Scale:
    """What the ratios on a CPU are measured with."""
    towers = {"image": shapes.vit(64, 8, 192, 4), "text": shapes.bert(192, 2, PADDED_TOKENS)}
    return Scale({"dim": 192, "vocabulary": shapes.VOCABULARY, **towers}, 128, 4, 7)


def tiny() -> Scale:
    """Enough to see that everything runs."""
    towers = {"image": shapes.vit(16, 8, 64, 1), "text": shapes.bert(64, 1, PADDED_TOKENS)}
    return Scale({"dim": 32, "vocabulary": shapes.VOCABULARY, **towers}, 8, 1, 1)


def large() -> Scale:
    """The paper's model."""
    return Scale(shapes.chinese_clip("ViT-L-14", PADDED_TOKENS), 512, 4, 3)


def settings(**changes: Any) -> Any:
    """`params.Fit` without pydantic."""
    told = {"chunk": None, "lr": LR, "muon_lr": None, "weight_decay": WEIGHT_DECAY, "warmup_steps": 1}
    told |= {"max_grad_norm": CLIP, "precision": "bf16", "gradient_checkpointing": False, "compile": False}
    return SimpleNamespace(**told | {"freeze": "none", "siblings": "positives", "ema": None} | changes)


def captions(rows: int, words: int, draw: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Random words, as many as the contest's captions have characters: mean 23, most 37."""
    ids = np.zeros((rows, PADDED_TOKENS), np.int64)
    lengths = np.clip(draw.normal(23, 7, rows).round().astype(int), 4, 37)
    for row, length in zip(ids, lengths, strict=True):
        row[: length + 2] = [CLS, *draw.integers(FIRST_WORD, words, length), SEP]
    return torch.from_numpy(ids), torch.from_numpy((ids > 0).astype(np.int64))


def batch_of(scale: Scale, seed: int) -> Batch:
    """Random pixels and captions, on the device."""
    draw, rows, side = np.random.default_rng(seed), scale.batch_size, scale.config["image"]["size_px"]
    ids, mask = captions(rows, scale.config["vocabulary"], draw)
    pixels = torch.from_numpy(draw.standard_normal((rows, 3, side, side), np.float32))
    names = torch.arange(rows)
    return Batch(*(column.to(DEVICE) for column in (pixels, ids, mask, names, names)))


# The contestants: each takes batches and steps on them


Run = Callable[[Iterator[Any]], None]


def ours(scale: Scale, **changes: Any) -> Run:
    """tuwen/step.py, as `stages/finetune.py` runs it."""
    fit = settings(batch_size=scale.batch_size, **changes)
    encoder = model.DualEncoder(scale.config)
    step.prepare(encoder, fit)
    optimizers = optim.make_optimizers(encoder, fit)

    def run(batches: Iterator[Any]) -> None:
        torch.use_deterministic_algorithms(True)  # as step.prepare has it; the others need not pay for it
        for batch in batches:
            step.step(encoder, optimizers, batch, 1.0, fit)
        torch.use_deterministic_algorithms(False)

    return run


def hugging_face(scale: Scale) -> Run:
    """The loop of a public script: the whole model under autocast, its own loss, AdamW as it comes."""
    declare_torchvision_ops()
    from transformers import ChineseCLIPConfig, ChineseCLIPModel

    image, text = scale.config["image"], scale.config["text"]
    config = ChineseCLIPConfig(
        text_config={
            "vocab_size": scale.config["vocabulary"],
            "hidden_size": text["width"],
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["width"] // 64,
            "intermediate_size": 4 * text["width"],
        },
        vision_config={
            "image_size": image["size_px"],
            "patch_size": image["patch_px"],
            "hidden_size": image["width"],
            "num_hidden_layers": image["layers"],
            "num_attention_heads": image["heads"],
            "intermediate_size": image["mlp"],
        },
        projection_dim=scale.config["dim"],
    )
    clip: Any = ChineseCLIPModel(config).to(DEVICE).train()
    optimizer = torch.optim.AdamW(clip.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)

    def run(batches: Iterator[Any]) -> None:
        for batch in batches:
            optimizer.zero_grad()
            with torch.autocast(DEVICE, torch.bfloat16):
                loss = clip(
                    input_ids=batch.ids, attention_mask=batch.mask, pixel_values=batch.pixels, return_loss=True
                ).loss
            loss.backward()
            optimizer.step()
            loss.item()

    return run


class OpenClipForm(torch.nn.Module):
    """Our towers as open_clip_train asks for a model; it tells padding by the token, as open_clip does."""

    def __init__(self, encoder: model.DualEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.logit_scale = encoder.log_scale

    def forward(self, pixels: Tensor, ids: Tensor) -> dict[str, Tensor]:
        """What ClipLoss takes."""
        image, text = self.encoder.encode_image(pixels), self.encoder.encode_text(ids, (ids != 0).long())
        return {"image_features": image, "text_features": text, "logit_scale": self.logit_scale.exp()}


def open_clip_step(scale: Scale) -> Run:
    """open_clip_train.train.train_one_epoch and ClipLoss on our towers; AdamW as its main.py makes it."""
    declare_torchvision_ops()
    from open_clip.loss import ClipLoss
    from open_clip_train.train import train_one_epoch

    form = OpenClipForm(model.DualEncoder(scale.config)).to(DEVICE)
    told = {"device": DEVICE, "precision": "amp_bf16", "distill": False, "accum_freq": 1, "skip_scheduler": True}
    told |= {"horovod": False, "grad_clip_norm": CLIP, "rank": 0, "local_rank": 0, "distributed": False}
    told |= {"world_size": 1, "wandb": False}
    args = SimpleNamespace(**told, log_every_n_steps=100, batch_size=scale.batch_size)
    named = list(form.named_parameters())
    excluded = [p for n, p in named if p.ndim < 2 or "bn" in n or "ln" in n or "bias" in n or "logit_scale" in n]
    known = set(map(id, excluded))
    groups = [
        {"params": excluded, "weight_decay": 0.0},
        {"params": [p for _, p in named if id(p) not in known], "weight_decay": WEIGHT_DECAY},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.98), eps=1e-6)

    class Loader:
        def __init__(self, batches: Iterator[Any]) -> None:
            self.batches, self.num_batches, self.num_samples = batches, scale.steps, scale.steps * scale.batch_size

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            return ((batch.pixels, batch.ids) for batch in self.batches)

    def run(batches: Iterator[Any]) -> None:
        data = SimpleNamespace(dataloader=Loader(batches), set_epoch=lambda epoch: None)
        train_one_epoch(form, {"train": data}, ClipLoss(), 0, optimizer, None, None, None, args)

    return run


CONTESTANTS = {"tuwen": ours, "Hugging Face": hugging_face, "open_clip_train": open_clip_step}


# What is measured


class Row(NamedTuple):
    """One line of the table."""

    name: str
    pairs_per_second: float
    mfu: float
    peak_bytes: int
    wait_share: float


def timed(run: Run, batches: list[Any]) -> tuple[float, float]:
    """Seconds of a run over the batches, and the share of them that it waited for the next batch."""
    pace = Pace()
    _finish()
    began = time.perf_counter()
    run(pace.timed(iter(batches)))
    _finish()
    return time.perf_counter() - began, pace.figures(1)["data_wait_share"]


def _finish() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def flops_of_pair(config: dict[str, Any], tokens: float) -> float:
    """Of a step's matrix products: three times those of the forward pass; recomputing and padding are none."""

    def tower(places: float, width: int, layers: int, mlp: int) -> float:
        return layers * places * (8 * width**2 + 4 * width * mlp + 4 * places * width)

    image, text = config["image"], config["text"]
    patches = (image["size_px"] // image["patch_px"]) ** 2
    into = 2 * patches * 3 * image["patch_px"] ** 2 * image["width"]
    out = 2 * config["dim"] * (image["width"] + text["width"])
    seen = tower(patches + 1, image["width"], image["layers"], image["mlp"])
    return 3 * (seen + into + out + tower(tokens, text["width"], text["layers"], 4 * text["width"]))


def matrix_rate(side: int) -> float:
    """FLOP/s of bf16 products of square matrices: the best of five goes."""
    left, right = (torch.randn(side, side, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    left @ right
    best = 0.0
    for _ in range(5):
        _finish()
        began = time.perf_counter()
        for _ in range(4):
            left @ right
        _finish()
        best = max(best, 8 * side**3 / (time.perf_counter() - began))
    return best


def rate_of(scale: Scale, tiny_run: bool) -> float:
    """Pairs/s at an MFU of one, from the matrix rate measured now."""
    rate = matrix_rate(256 if tiny_run else 8192 if DEVICE == "cuda" else 2048)
    print(f"bf16 matrix products: {rate / 1e12:.2f} TFLOP/s")
    tokens = batch_of(scale, 0).mask.sum(1).float().mean().item()
    padded, real = (flops_of_pair(scale.config, length) / 1e12 for length in (PADDED_TOKENS, tokens))
    print(f"a pair: {real:.4f} TFLOP with its {tokens:.1f} tokens, as in MFU; {padded:.4f} with {PADDED_TOKENS}")
    return rate / (real * 1e12)  # pairs/s at an MFU of one


def show(rows: list[Row]) -> None:
    """Print the table."""
    print(f"\n{'':44}{'pairs/s':>10}{'MFU':>8}{'peak, GB':>10}{'data wait':>11}")
    for row in rows:
        speed = f"{row.pairs_per_second:10.1f}{row.mfu:8.1%}"
        print(f"{row.name:44}{speed}{row.peak_bytes / 1e9:10.2f}{row.wait_share:11.2%}", flush=True)


def peak_of(name: str, tiny_run: bool) -> int:
    """Peak memory of a process of its own that takes two steps."""
    if tiny_run:
        return _peak_of_process()
    command = [sys.executable, __file__, "cpu", "--memory-of", name]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


# The parts


def cpu(scale: Scale, tiny_run: bool) -> None:
    """Rounds of all contestants in turn, each beginning with another one: the medians of the paired ratios."""
    at_full = rate_of(scale, tiny_run)
    runs = {name: contestant(scale) for name, contestant in CONTESTANTS.items()}
    batches = [batch_of(scale, seed) for seed in range(scale.steps)]
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    waits: dict[str, float] = {}
    for run in runs.values():
        timed(run, batches[:2])  # warm
    names = list(runs)
    for number in range(scale.rounds):
        for name in names[number % 3 :] + names[: number % 3]:
            took, waits[name] = timed(runs[name], batches)
            seconds[name].append(took)
    rows = []
    for name in names:
        rate = scale.batch_size * scale.steps / statistics.median(seconds[name])
        rows.append(Row(name, rate, rate / at_full, peak_of(name, tiny_run), waits[name]))
    show(rows)
    for name in names[1:]:
        ratios = sorted(peer / own for peer, own in zip(seconds[name], seconds["tuwen"], strict=True))
        print(f"tuwen / {name}: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


def gpu(scale: Scale, tiny_run: bool) -> None:
    """Every way to take the step that fits into memory, ours and the peers', then the two figures of memory."""
    at_full = rate_of(scale, tiny_run)
    quarter = scale.batch_size // 4
    ways: dict[str, Callable[[], Run]] = {
        "tuwen": lambda: ours(scale),
        "tuwen, compiled": lambda: ours(scale, compile=True),
        "tuwen, checkpointing": lambda: ours(scale, gradient_checkpointing=True),
        "tuwen, compiled, checkpointing": lambda: ours(scale, compile=True, gradient_checkpointing=True),
        f"tuwen, GradCache in {quarter}s": lambda: ours(scale, chunk=quarter),
        f"tuwen, compiled, GradCache in {quarter}s": lambda: ours(scale, compile=True, chunk=quarter),
        "Hugging Face": lambda: hugging_face(scale),
        "Hugging Face, checkpointing": lambda: checkpointed(scale),
        "open_clip_train": lambda: open_clip_step(scale),
    }
    if tiny_run:
        ways = {name: make for name, make in ways.items() if "compiled" not in name}  # that takes a minute
    rows = [row for name, make in ways.items() if (row := measured(name, make, scale, at_full))]
    own = max((row.pairs_per_second for row in rows if row.name.startswith("tuwen")), default=0.0)
    big = scale._replace(batch_size=8 * scale.batch_size, steps=1, rounds=1)
    few = scale._replace(batch_size=max(1, scale.batch_size // 8))
    for name, made, size in (
        (f"tuwen, GradCache in {quarter}s", lambda: ours(big, chunk=quarter), big),
        ("tuwen, checkpointing", lambda: ours(few, gradient_checkpointing=True), few),
    ):
        if row := measured(f"{name}, batch {size.batch_size}", made, size, at_full):
            rows.append(row)
    show(rows)
    for row in rows:
        if not row.name.startswith("tuwen"):
            print(f"the fastest of tuwen / {row.name}: {own / row.pairs_per_second:.2f}")
    if own:
        print(
            f"the paper's fine-tuning, {PAPER_PAIRS:,} pairs, without the input: {PAPER_PAIRS / own / 60:.0f} min"
        )


def checkpointed(scale: Scale) -> Run:
    """The loop of `hugging_face` with its own switch for memory, for cards that the plain one does not fit."""
    from transformers import ChineseCLIPModel

    made = ChineseCLIPModel.__init__

    def init(self: Any, config: Any) -> None:
        made(self, config)
        self.gradient_checkpointing_enable({"use_reentrant": False})

    ChineseCLIPModel.__init__ = init
    try:
        return hugging_face(scale)
    finally:
        ChineseCLIPModel.__init__ = made


def measured(name: str, make: Callable[[], Run], scale: Scale, at_full: float) -> Row | None:
    """The best round of one contestant; None, and a word why, where it does not run here."""
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        run, batches = make(), [batch_of(scale, seed) for seed in range(min(scale.steps, 2))]
        batches = (batches * scale.steps)[: scale.steps]
        timed(run, batches[:1] * 2)
        found = min(timed(run, batches) for _ in range(scale.rounds))
    except ImportError as error:
        if name != "open_clip_train":
            raise
        print(f"{name}: not here ({error})")
        return None
    except torch.cuda.OutOfMemoryError:
        print(f"{name}: more memory than this card has")
        return None
    rate = scale.batch_size * scale.steps / found[0]
    peak = torch.cuda.max_memory_allocated() if DEVICE == "cuda" else _peak_of_process()
    row = Row(name, rate, rate / at_full, peak, found[1])
    show([row])
    return row


def _peak_of_process() -> int:
    # not getrusage: a child begins with its parent's peak there
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


# The input


def stored_views(data: Path, pairs_of: int, size_px: int) -> Any:
    """Views as `augment` stores them, of pictures made here: `pairs_of` of them, 4:4:4 JPEGs of quality 95."""
    import cv2
    import pyarrow as pa

    from tuwen import pairs, shards
    from tuwen.feed import StoredViews
    from tuwen.params import load
    from tuwen.views import VIEWS

    quality = load(Path(__file__).parents[1] / "presets/contest.yaml").augment.jpeg_quality
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR]
    draw, encoded = np.random.default_rng(0), []
    for _ in range(64):
        picture = sum(
            cv2.resize(draw.normal(size=(side, side, 3)).astype(np.float32), (size_px, size_px)) * 160 / side**0.33
            for side in (4, 16, 64, size_px)
        )
        pixels = np.clip(picture * 0.6 + 128, 0, 255).astype(np.uint8)
        encoded.append(bytes(cv2.imencode(".jpg", pixels, [*flags, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444])[1]))
    said = "雨后的街道上停着一辆红色的公交车,旁边有人撑着伞等车"
    rows = []
    with shards.ShardWriter(data, "augmented/shards") as writer:
        for n in range(pairs_of):
            member = writer.add(f"{n}.jpg", encoded[n % 64])._asdict()
            told = {"view_id": f"{n}.0", "pair_id": str(n), "view": 0, "split": "train", "positive_id": str(n)}
            rows.append(told | {"caption": said[: 8 + n % 18], "flipped": False, "recipe": "{}"} | member)
    pairs.write_table(data / "augmented/views.parquet", pa.Table.from_pylist(rows, VIEWS))
    print(f"{pairs_of} stored views of {size_px} px, {sum(map(len, encoded)) / 64e3:.0f} kB each")
    return StoredViews(data / "augmented", ["train"])


def tokenizer_in(data: Path) -> Any:
    """Over the basic characters; its vocabulary is written into the folder."""
    from tuwen.stream import basic_characters
    from tuwen.text import build_vocabulary, load_tokenizer

    (data / "vocab.txt").write_text("\n".join(build_vocabulary([basic_characters()])) + "\n", encoding="utf-8")
    return load_tokenizer(data / "vocab.txt")


def input_rate(scale: Scale, tiny_run: bool) -> None:
    """Pairs/s of the batches alone beside simplejpeg's bare decoding of the same bytes in one process."""
    import simplejpeg

    from tuwen import shards
    from tuwen.loader import batches, loading_workers

    size_px, count = (16, 64) if tiny_run else (224, 8192)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        views, tokenizer = stored_views(data, count, size_px), tokenizer_in(data)
        encoded = [shards.read(data, *ask.source) for ask in views.asked(0, 1)]
        began = time.perf_counter()
        for one in encoded:
            simplejpeg.decode_jpeg(one, "RGB")
        bare = count / (time.perf_counter() - began)
        print(f"bare simplejpeg, one process: {bare:.0f} pictures/s")
        for asked in ("1",) if tiny_run else ("1", "2", "4"):
            os.environ["TUWEN_WORKERS"] = asked
            made = batches(views, tokenizer, max_tokens=PADDED_TOKENS, batch_size=count // 8, seed=0, epoch=1)
            next(made)  # workers start
            began, seen = time.perf_counter(), 0
            for batch in made:
                seen += len(batch.pair_ids)
            rate = seen / (time.perf_counter() - began)
            told = f"batches, {loading_workers()} workers: {rate:.0f} pairs/s"
            print(f"{told}, {rate / bare:.2f} of the bare rate", flush=True)
        del os.environ["TUWEN_WORKERS"]


def from_shards(scale: Scale, tiny_run: bool) -> None:
    """Our step fed from stored views by the loader."""
    from tuwen.loader import batches, loading_workers

    at_full = rate_of(scale, tiny_run)
    changes = {"compile": True, "gradient_checkpointing": True} if DEVICE == "cuda" else {}
    run = ours(scale, **changes)
    timed(run, [batch_of(scale, 0)] * 2)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        views = stored_views(
            data, scale.batch_size * (scale.steps * scale.rounds + 1), scale.config["image"]["size_px"]
        )
        made = batches(
            views, tokenizer_in(data), max_tokens=PADDED_TOKENS, batch_size=scale.batch_size, seed=0, epoch=1
        )
        run(iter([next(made)]))  # workers start
        pace = Pace()
        began = time.perf_counter()
        run(pace.timed(made))
        _finish()
        rate = scale.batch_size * scale.steps * scale.rounds / (time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated() if DEVICE == "cuda" else _peak_of_process()
    wait = pace.figures(1)["data_wait_share"]
    show([Row(f"tuwen from shards, {loading_workers()} workers", rate, rate / at_full, peak, wait)])
    if scale.config == large().config:
        print(f"the paper's fine-tuning, {PAPER_PAIRS:,} pairs, input included: {PAPER_PAIRS / rate / 60:.0f} min")


PARTS = {"cpu": cpu, "gpu": gpu, "input": input_rate, "shards": from_shards}


def main() -> None:
    """The parts asked for, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--memory-of", choices=CONTESTANTS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.manual_seed(0)
    if asked.memory_of:
        scale = small()._replace(steps=2)
        CONTESTANTS[asked.memory_of](scale)(batch_of(scale, seed) for seed in range(2))
        print(_peak_of_process())
        return
    for part in asked.parts:
        scale = (
            tiny() if asked.tiny else large() if part == "gpu" or (part != "cpu" and DEVICE == "cuda") else small()
        )
        said = f"batch {scale.batch_size}, bf16, torch {torch.__version__}"
        print(f"\n{part}: {DEVICE}, {torch.get_num_threads()} threads, {said}", flush=True)
        PARTS[part](scale, asked.tiny)


if __name__ == "__main__":
    main()
