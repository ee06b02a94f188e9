"""The two trainings: the baseline is pre-trained on the corpus, the fine-tuned model goes on from it.

Both write a model folder (tuwen/model.py) with `training.json`, one record per epoch, and `manifest.json`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tuwen import manifest, model, pairs, train
from tuwen.embed import embed_captions, embed_pictures, read_pictures
from tuwen.feed import OnlineViews, StoredViews, Views, batches
from tuwen.params import Fit, Params
from tuwen.recall import hits, judge
from tuwen.text import build_vocabulary, load_tokenizer

Log = Callable[[train.Record, int], None]
VALID_KS = (5,)


def baseline_inputs(clean: Path) -> dict[str, Path]:
    """What the baseline is made from."""
    return {name: clean / name for name in ("corpus", "train", "valid")}


def baseline_settings(params: Params) -> dict[str, Any]:
    """The params that decide the baseline."""
    groups = {"image": params.image, "text": params.text, "model": params.model, "baseline": params.baseline}
    return {name: group.model_dump() for name, group in groups.items()}


def make_baseline(clean: Path, out: Path, params: Params, checkpoint: Path, log: Log) -> None:
    """Pre-train a fresh dual encoder on `clean/corpus` with a new view of each pair in every epoch."""
    captions = [pairs.read(clean / name).texts["caption"].to_pylist() for name in ("corpus", "train")]
    vocabulary = build_vocabulary(caption for column in captions for caption in column)
    shape = params.model.model_dump()
    torch.manual_seed(params.baseline.seed)
    fresh = model.DualEncoder(
        {
            "dim": shape["dim"],
            "image": shape["image"] | params.image.model_dump(),
            "text": shape["text"] | params.text.model_dump(),
            "vocabulary": len(vocabulary),
        }
    )
    views = OnlineViews(clean / "corpus", params.baseline.policy, params.image.size_px, params.baseline.seed)
    inputs, settings = baseline_inputs(clean), baseline_settings(params)
    _train(
        fresh, vocabulary, views, params.baseline.fit, params.baseline.seed, out, inputs, settings, checkpoint, log
    )


def finetune_inputs(clean: Path, augmented: Path, baseline: Path) -> dict[str, Path]:
    """What the fine-tuned model is made from."""
    return {"augmented": augmented, "baseline": baseline, "valid": clean / "valid"}


def finetune_settings(params: Params) -> dict[str, Any]:
    """The params that decide the fine-tuned model, given its inputs."""
    return {"finetune": params.finetune.model_dump()}


def make_finetuned(
    clean: Path, augmented: Path, baseline: Path, out: Path, params: Params, checkpoint: Path, log: Log
) -> None:
    """Train the baseline on over the stored views."""
    inputs, settings = finetune_inputs(clean, augmented, baseline), finetune_settings(params)
    _train(
        model.load(baseline),
        model.read_vocabulary(baseline),
        StoredViews(augmented),
        params.finetune.fit,
        params.finetune.seed,
        out,
        inputs,
        settings,
        checkpoint,
        log,
    )


def _train(
    start: model.DualEncoder,
    vocabulary: list[str],
    views: Views,
    fit: Fit,
    seed: int,
    out: Path,
    inputs: dict[str, Path],
    settings: dict[str, Any],
    checkpoint: Path,
    log: Log,
) -> None:
    model.save(start, out, vocabulary)  # the tokenizer is read from the file that the model will be used with
    tokenizer = load_tokenizer(out / "vocab.txt")
    longest = start.config["text"]["max_tokens"]
    steps = len(views) // fit.batch_size
    records = train.train(
        start,
        lambda epoch: batches(
            views, tokenizer, max_tokens=longest, batch_size=fit.batch_size, seed=seed, epoch=epoch
        ),
        steps,
        fit,
        seed=seed,
        checkpoint=checkpoint,
        evaluate=_on_valid(inputs["valid"], tokenizer, start.config["image"]["size_px"], fit.batch_size),
        log=log,
    )
    model.save(start, out, vocabulary)
    training = {"pairs": len(views), "steps": steps * fit.epochs, "epochs": records}
    (out / "training.json").write_text(json.dumps(training, indent=1) + "\n")
    manifest.write(out, inputs, settings)
    train.remove_checkpoint(checkpoint)


def _on_valid(
    valid: Path, tokenizer: Any, size_px: int, batch_size: int
) -> Callable[[model.DualEncoder], train.Record]:
    """hit@5 of a model on the valid set, both directions; pictures are decoded once."""
    pair_set = pairs.read(valid)
    pictures = read_pictures(valid.parent.parent, pair_set, size_px)
    captions = pair_set.texts["caption"].to_pylist()
    image_row, text_row = pairs.true_rows(pair_set)

    def evaluate(encoder: model.DualEncoder) -> train.Record:
        images = embed_pictures(encoder, pictures, batch_size)
        texts = embed_captions(encoder, tokenizer, captions, batch_size)
        i2t = judge(images, texts, image_row, text_row, VALID_KS)
        t2i = judge(texts, images, text_row, image_row, VALID_KS)
        return {
            f"valid_{direction}_hit_at_5": hits(judged.best_rank, VALID_KS).mean().item()
            for direction, judged in (("i2t", i2t), ("t2i", t2i))
        }

    return evaluate
