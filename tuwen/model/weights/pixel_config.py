"""What a foreign preprocessor does with pixels, compared with what is done here."""

from pathlib import Path
from typing import Any

from tuwen.core.errors import UserError
from tuwen.data.formats import images

# What is done here, and by a file that says nothing; the factor is that of 0..255 to 0..1.
PIXEL_STEPS: dict[str, float] = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_flip_channel_order": False,
}
PIXEL_STEPS |= {"rescale_factor": 1 / 255}


def check_pixel_steps(content: dict[str, Any], path: Path, remedy: str) -> None:
    """Raise UserError where a preprocessor, read from `path`, prepares pictures otherwise than is done here."""
    for name, due in PIXEL_STEPS.items():
        given = content.get(name)
        is_number = isinstance(given, int | float)
        if given is not None and not (is_number and abs(given - due) < 1e-6):
            raise UserError(
                f"{path}: {name}: expected {due}, got {given!r}; pictures are not prepared so here, and its "
                f"weights would see others than they were trained with: take other weights, or {remedy}"
            )


def check_pixel_levels(values: dict[str, Any], path: Path, remedy: str) -> None:
    """Raise UserError where `mean` or `std`, read from `path`, is neither None nor three usable numbers."""
    for name, given in values.items():
        low = -1.0 if name == "mean" else 1e-6  # by which a picture is divided
        listed = isinstance(given, list) and [
            one for one in given if isinstance(one, int | float) and low <= one <= 1
        ]
        if given is not None and (listed != given or len(given) != 3):
            due = "three numbers up to 1" + " above 0" * (name == "std")
            raise UserError(f"{path}: {name} of the pictures: expected {due}, got {given!r}; {remedy}")


def make_pixel_config(values: dict[str, Any]) -> dict[str, Any]:
    """Return `mean` and `std` (0..1) as dual_encoder.py takes them: {} where they are CLIP's or None."""
    clip = {name: [value / 255 for value in levels] for name, levels in images.CLIP_PIXELS.items()}
    own = {name: list(given) if given else clip[name] for name, given in values.items()}
    same = all(abs(a - b) < 1e-6 for name, shares in own.items() for a, b in zip(shares, clip[name], strict=True))
    return {} if same else own
