"""Workarounds for faults in other packages, each with its reason and the condition under which it can go."""

import functools
import importlib
import importlib.util
import os
from pathlib import Path
from typing import Any


@functools.cache  # the cache keeps the library object alive, and with it the schemas
def declare_torchvision_ops() -> Any:
    """Make torchvision importable where its C++ part cannot load; call before transformers, open_clip or timm.

    Reason: PyPI's torchvision links CUDA. Beside a CPU-only torch its `_C.so` does not load, and importing
    torchvision, or anything that imports it, fails with `operator torchvision::nms does not exist`. Declaring the
    two schemas for which it registers fakes is enough; `ops.nms` and `io.decode_jpeg` stay unusable.
    Can go when pip resolves a CPU torchvision for a CPU torch, or when torchvision registers its fakes only where
    `_C` loaded (0.28 does not). Look again at the next torch pin.
    Returns the library that holds the declarations, or None where none are needed.
    """
    import torch

    load_library: Any = torch.ops.load_library
    make_library: Any = torch.library.Library
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return None
    try:
        for extension in Path(spec.origin).parent.glob("_C.*"):
            load_library(str(extension))
            return None
    except OSError:
        pass  # it links libraries that this torch lacks
    library = make_library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def import_matplotlib() -> None:
    """Import matplotlib, whatever MPLBACKEND says; call before anything of it is imported.

    Reason: it reads that variable as it is imported, and fails where a notebook names a backend in it that is
    installed for its kernel alone. Nothing here draws by a backend that could be chosen. The variable stays.
    Can go when matplotlib checks a backend where it is first used.
    """
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        importlib.import_module("matplotlib")
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
