"""`tuwen export model onnx`: a model as two programs that ONNX Runtime reads, with all that it takes to feed them.

    image.onnx          pixels [B, 3, S, S], float32 -> vectors [B, D], of length 1
    text.onnx           ids and mask [B, L], int64 -> vectors [B, D], of length 1
    README.md           how pictures and captions become these inputs, and
    preprocessor.json, vocab.txt, tokenizer.json, tokenizer/    what it speaks of, as weights/graphs.py leaves them

They are translated from the programs of torch.export, so B and L are free as there. Weights of more than 1.5 GB
lie in a file of their own beside the program, `image.onnx.data`.
"""

import importlib.util
import warnings
from pathlib import Path
from typing import Any

from tuwen.core.errors import UserError
from tuwen.data.formats.json_file import read_json
from tuwen.model.weights.export import export_model

PACKAGES = ("onnx", "onnxscript")  # that torch translates by
PROGRAM_INPUTS = {"image": ["pixels"], "text": ["ids", "mask"]}
README = """# {name} for ONNX Runtime

| program | takes | gives |
|---|---|---|
| `image.onnx` | `pixels` [B, 3, {size_px}, {size_px}] float32 | `vectors` [B, {dim}] float32 |
| `text.onnx` | `ids` and `mask` [B, L] int64, L {lengths} | `vectors` [B, {dim}] float32 |

B is any number. Vectors have length 1: the dot product of a picture's and a caption's is their cosine.

**Pictures.** `image` of preprocessor.json says the rule. A picture of {size_px} × {size_px} in RGB, 0 to 1,
channels first, less `mean`, divided by `std`, is `pixels`.

**Captions.** {captions}

```python
{code}
```
"""
OWN_CAPTIONS = """They are cut to {max_tokens} tokens. `mask` is 1 where a token stands, 0 where a caption is
padded.{simplify}"""
OWN_CODE = """import numpy as np
import onnxruntime
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("tokenizer.json")
tokenizer.enable_truncation({max_tokens})
tokenizer.enable_padding()
read = tokenizer.encode_batch(["一只大熊猫坐在竹林里吃竹子", "海边的日落"])
ids = np.array([one.ids for one in read], np.int64)
mask = np.array([one.attention_mask for one in read], np.int64)
(vectors,) = onnxruntime.InferenceSession("text.onnx").run(None, {{"ids": ids, "mask": mask}})"""
LIBRARY_CAPTIONS = """`tokenizer/` holds the tokenizer of the library that the model came from, and `text` of
preprocessor.json how it is used: `max_tokens`, `padding`, and `clean` where captions are cleaned
first.{simplify}{fixed}"""
LIBRARY_CODE = """import onnxruntime
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("tokenizer")
session = onnxruntime.InferenceSession("text.onnx")"""
SIMPLIFY = " Traditional characters are read as simplified ones: OpenCC's t2s comes first."
FIXED = " All are padded to {max_tokens} tokens, and `mask` is 1 everywhere."


def write_onnx_folder(folder: Path, out: Path) -> None:
    """Write the model in `folder` as programs of ONNX, and how to feed them, into `out`.

    Raises UserError where onnx or onnxscript is not installed, and for what torch alone cannot be given either.
    """
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise UserError(
            f"the form onnx is written by {' and '.join(PACKAGES)}; not installed: {', '.join(missing)}; "
            "`pip install -c constraints.txt -e '.[onnx]'`, or take the form torch, which needs no more than torch"
        )
    export_model("torch", folder, out)
    for side, names in PROGRAM_INPUTS.items():
        _translate(out / f"{side}.pt2", names)
    dim, rules = read_json(folder / "config.json")["dim"], read_json(out / "preprocessor.json")
    (out / "README.md").write_text(_describe(folder.name, dim, rules), encoding="utf-8")


def _translate(program: Path, names: list[str]) -> None:
    """Put a program of ONNX in the place of one of torch.export."""
    import torch

    exported = torch.export.load(program)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # of torch, about torch
        translated = torch.onnx.export(exported, input_names=names, output_names=["vectors"], verbose=False)
    assert translated is not None
    translated.save(program.with_suffix(".onnx"))
    program.unlink()


def _describe(name: str, dim: int, rules: dict[str, Any]) -> str:
    """Return the README of a folder; rules: what its preprocessor.json holds."""
    text = rules["text"]
    max_tokens, is_fixed = text["max_tokens"], text.get("padding") == "max_length"
    is_own = "padding" not in text
    fill = {
        "max_tokens": max_tokens,
        "simplify": SIMPLIFY if text.get("simplify") else "",
        "fixed": FIXED.format(max_tokens=max_tokens) if is_fixed else "",
    }
    return README.format(
        name=name,
        size_px=rules["image"]["size_px"],
        dim=dim,
        lengths=f"{max_tokens}" if is_fixed else f"from 1 to {max_tokens}",
        captions=(OWN_CAPTIONS if is_own else LIBRARY_CAPTIONS).format(**fill),
        code=(OWN_CODE if is_own else LIBRARY_CODE).format(**fill),
    )
