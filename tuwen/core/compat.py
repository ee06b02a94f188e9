"""The few lines that outside faults force on us, each with its reason and its end date."""

import functools
import importlib.util
from pathlib import Path
from typing import Any


@functools.cache  # the cache keeps the library object alive, and with it the schemas
def declare_torchvision_ops() -> Any:
    """Let torchvision be imported where its C++ part cannot load; call before transformers, open_clip or timm.

    Reason: PyPI's torchvision links CUDA. Beside a CPU-only torch its `_C.so` does not load, and then the import
    of torchvision, and of all that import it, ends with `operator torchvision::nms does not exist`. Declaring
    the two schemas that it registers fakes for is enough; `ops.nms` and `io.decode_jpeg` stay unusable.
    End: when pip resolves a CPU torchvision for a CPU torch, or when torchvision registers its fakes only where
    `_C` loaded (0.28 does not). Look again at the next torch pin.
    Returns the library that holds the declarations, or None where nothing was needed.
    """
    import torch

    load: Any = torch.ops.load_library
    declare: Any = torch.library.Library
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return None
    try:
        for extension in Path(spec.origin).parent.glob("_C.*"):
            load(str(extension))
            return None
    except OSError:
        pass  # it links libraries that this torch does not bring
    library = declare("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
