"""BatchNorm in several processes with a GPU each: by the mean of the rows of all of them."""

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tuwen.core.errors import UserError

CONVERTED = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def convert_batch_norm(tower: nn.Module) -> nn.Module:
    """Return the tower with torch's SyncBatchNorm in the place of each BatchNorm.

    Raises UserError for a class derived from torch's, such as timm's BatchNormAct2d: torch would put a plain
    SyncBatchNorm in its place, without the activation or whatever else the class adds.
    """
    for name, layer in tower.named_modules():
        if isinstance(layer, _BatchNorm) and type(layer) not in CONVERTED:
            raise UserError(
                f"{name} of the image tower is a {type(layer).__name__}, and torch can share between processes "
                "only BatchNorms of its own classes; take a tower without it, freeze this one (freeze: image), or "
                "train in one process"
            )
    convert: Any = nn.SyncBatchNorm.convert_sync_batchnorm
    shared: nn.Module = convert(tower)
    return shared
