"""The README.md of a model folder: what the model is, where it comes from, how to use it, its recall on valid."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

HITS = {  # metrics of training.json -> titles
    "valid_t2i_hit_at_5": "text → image",
    "valid_i2t_hit_at_5": "image → text",
}
USE = """\
```python
import tuwen

retriever = tuwen.load(".")  # the folder of this card
texts = retriever.encode_texts(["一只大熊猫坐在竹林里吃竹子", "一只橘猫趴在窗台上"])  # [2, dimensions]
images = retriever.encode_images(["panda.jpg", "cat.jpg"])  # paths, bytes or PIL images
rows, cosines = tuwen.top_k(texts, images, k=2)  # of each text: the images' numbers, best first
```
"""


def write_card(folder: Path, config: Mapping[str, Any], origin: str, training: Mapping[str, Any]) -> None:
    """Write `folder/README.md`; equal arguments give equal bytes.

    origin: where the first weights came from, in words. training: the content of training.json; its `valid`, the
    metrics of a model that was not trained, is shown as epoch 0, and each of its `epochs` that was measured.
    """
    records = [dict(record) for record in training["epochs"]]
    if "valid" in training:
        records.insert(0, {"epoch": 0, **training["valid"]})
    records = [record for record in records if HITS.keys() <= record.keys()]
    lines = [
        *("---", "language: zh", "pipeline_tag: zero-shot-image-classification", "tags: [clip, retrieval]", "---"),
        *("", "# Chinese image–text retrieval model", ""),
        "Pictures and Chinese texts become unit vectors of one space; their dot product is how well they match.",
        *("", "| | |", "|---|---|"),
        *(f"| {name} | {value} |" for name, value in _parts(config, origin, training)),
        *("", USE),
        *_table(records),
    ]
    (folder / "README.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def _parts(config: Mapping[str, Any], origin: str, training: Mapping[str, Any]) -> list[tuple[str, str]]:
    image, text = config["image"], config["text"]
    image_tower = [image.get("kind", "transformer of averaged patches")]
    image_tower += [f"{name} {image[name]}" for name in ("width", "layers", "patch_px") if name in image]
    return [
        ("picture tower", f"{', '.join(image_tower)}, for squares of {image['size_px']} px"),
        (
            "text tower",
            f"{text.get('kind', 'BERT')}, width {text['width']}, layers {text['layers']}, "
            f"{text['max_tokens']} tokens at most",
        ),
        ("common space", f"{config['dim']} dimensions{_describe_prefixes(config)}"),
        ("first weights", origin),
        ("trained on", f"{training['pairs']} pairs an epoch, {training['steps']} steps"),
    ]


def _describe_prefixes(config: Mapping[str, Any]) -> str:
    dims = config.get("matryoshka")
    return f", of which the first {', '.join(map(str, dims))} can be used alone" if dims else ""


def _table(records: list[dict[str, Any]]) -> list[str]:
    if not records:
        return ["It was not measured on valid, which it may have seen."]
    head = " | ".join(f"{name} hit@5" for name in HITS.values())
    rows = [f"| {r['epoch']} | {' | '.join(f'{r[key]:.4f}' for key in HITS)} |" for r in records]
    return [
        "Recall on valid, each query over the whole gallery:",
        "",
        f"| epoch | {head} |",
        "|---|---|---|",
        *rows,
    ]
