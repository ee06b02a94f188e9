"""`tuwen export model`: a model of ours for transformers, for cn_clip, or for any torch.

What a form has no place for is told from config.json alone, before torch is loaded.
"""

from pathlib import Path
from typing import Any

from tuwen.core.errors import UserError
from tuwen.data.formats.json_file import read_json

MODEL_FORMS = ("hugging_face", "cn_clip", "open_clip", "torch")
LIBRARY_FORMS = {"transformers": "hugging_face", "open_clip_hub": "open_clip"}  # of whole models, by their kind
IMAGE_KINDS = {"hugging_face": ("vit",), "cn_clip": ("vit", "resnet")}  # that a form has a place for


def export_model(form: str, folder: Path, out: Path) -> None:
    """Write the model in `folder` in another form: a `.pt` for cn_clip, a folder for the others.

    torch takes every model but a NaFlex one. Raises UserError for an unknown form, an `out` that exists, and a
    model that the form has no place for.
    """
    if form not in MODEL_FORMS:
        raise UserError(f"no such form {form!r}; expected {', '.join(MODEL_FORMS[:-1])} or {MODEL_FORMS[-1]}")
    if out.exists():
        raise UserError(f"{out}: is there already; name another, or remove it")
    if obstacle := _find_obstacle(form, read_json(folder / "config.json", "name a model folder")):
        other = "hugging_face" if form == "torch" else "torch"
        raise UserError(
            f"{folder}: cannot be written as {form}: {obstacle}; `tuwen export model {other} {folder} {out}` can "
            "write it, and tuwen.load reads the folder as it is"
        )

    from tuwen.model import dual_encoder
    from tuwen.model.weights import cn_clip, graphs, hugging_face, library, open_clip_hub

    encoder, vocabulary = dual_encoder.load_model(folder), dual_encoder.read_vocabulary(folder)
    if form == "torch":
        graphs.write_graphs(encoder, folder, out)
    elif form == "cn_clip":
        cn_clip.write_checkpoint(encoder.state_dict(), out)
    elif isinstance(vocabulary, list):
        hugging_face.write_folder(encoder.config, encoder.state_dict(), vocabulary, out)
    elif form == "hugging_face":
        library.write_library_folder(encoder.config, encoder.state_dict(), vocabulary, out)
    else:
        open_clip_hub.write_open_clip_folder(encoder.config, encoder.state_dict(), vocabulary, out)


def _find_obstacle(form: str, config: dict[str, Any]) -> str:
    """Return what the form has no place for, or an empty string."""
    image, text = config.get("image", {}), config.get("text", {})
    if form == "torch":
        is_naflex = image.get("library", {}).get("model_type") == "siglip2"
        return (
            "its positions are interpolated for each picture, as no program of torch.export can"
            if is_naflex
            else ""
        )
    if text.get("simplify"):
        return "it reads simplified characters (text.simplify), and the form leaves captions as they are"
    if own := LIBRARY_FORMS.get(image.get("kind")):
        return "" if form == own else f"it is a whole model of a library, whose form is {own}"
    if config.get("sigmoid"):
        return "it was trained by the sigmoid loss, whose bias the form has no place for"
    if form == "open_clip":
        return "it did not begin as a model of open_clip (baseline.start.kind open_clip_hub)"
    if image.get("kind") not in IMAGE_KINDS[form]:
        return f"its picture tower is no {' or '.join(IMAGE_KINDS[form])} of CLIP's form"
    if text.get("pool") != "first":
        return "its texts are averaged over their tokens, and the form takes the first"
    if form == "hugging_face":
        return ""
    from tuwen.model.weights import cn_clip

    fixed = cn_clip.list_fixed_settings(config)
    return "; ".join(
        f"{name} is {own}, and there it is {must}" for name, (own, must) in fixed.items() if own != must
    )
