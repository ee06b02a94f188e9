"""Which parameters are of a tower, and how deep in it each lies: for learning rates that differ by layer.

A tower's blocks are the children of the one outermost list of layers of one class: `layer` of our own ViT and of
BERT, `layers` of transformers, `resblocks` and `blocks` of open_clip and timm.
"""

from collections.abc import Iterator

from torch import nn

from tuwen.core.errors import UserError

TOWERS = ("image_tower", "text_tower")
# parts of the names of what leads into the common space, by library; inside blocks and poolings they are others
PROJECTIONS = {"c_proj", "proj", "projection", "text_projection", "visual_projection"}
NO_PROJECTIONS = {"attn", "attn_pool", "patch_embed"}


def list_tower_parameters(model: nn.Module) -> list[str]:
    """Return the names of the parameters of both towers, without the projections into the common space."""
    lists = tuple(f"{name}." for tower in TOWERS for name in _list_blocks(model, tower))
    return [
        name
        for name, _ in model.named_parameters()
        if name.startswith(TOWERS) and (name.startswith(lists) or not _is_projection(name))
    ]


def count_layers_above(model: nn.Module, setting: str) -> dict[str, int]:
    """Return for each parameter of the towers that are trained how many layers of its tower lie above it.

    What follows the last block, as a norm, has 0; of L blocks the last has 1 and the first L, and what lies below
    them, as embeddings, has L + 1 (Bao et al. 2022, BEiT). Raises UserError, naming `setting` and the tower, where
    a tower has no list of blocks, or several.
    """
    depths: dict[str, int] = {}
    for tower in TOWERS:
        names = [name for name in list_tower_parameters(model) if name.startswith(f"{tower}.")]
        if not any(model.get_parameter(name).requires_grad for name in names):
            continue
        lists = list(_list_blocks(model, tower))
        if len(lists) != 1:
            found = f"{len(lists)} lists of layers ({', '.join(lists)})" if lists else "no list of layers"
            raise UserError(
                f"{setting}: {tower} has {found}, so which layer lies how deep cannot be told; set it to 1.0, or "
                "train a tower with one list of blocks, as ViT and BERT have it"
            )
        depths |= {name: _count_above(model, name, lists[0]) for name in names}
    return depths


def _list_blocks(model: nn.Module, name: str) -> Iterator[str]:
    """Yield the names of the lists in the module `name` whose layers are of one class, none inside another."""
    module = model.get_submodule(name)
    classes = {type(child) for child in module.children()}
    if isinstance(module, nn.ModuleList | nn.Sequential) and len(classes) == 1 and list(module.parameters()):
        yield name
        return
    for key, _ in module.named_children():
        yield from _list_blocks(model, f"{name}.{key}")


def _is_projection(name: str) -> bool:
    parts = set(name.split("."))
    return bool(parts & PROJECTIONS) and not parts & NO_PROJECTIONS


def _count_above(model: nn.Module, name: str, blocks: str) -> int:
    keys = [key for key, _ in model.get_submodule(blocks).named_children()]
    if name.startswith(f"{blocks}."):
        return len(keys) - keys.index(name.removeprefix(f"{blocks}.").partition(".")[0])
    owner = name.rpartition(".")[0]
    order = [module for module, _ in model.named_modules()]
    # a tower's own parameters are positions and classes; open_clip builds the table of tokens after the blocks
    is_below = "embed" in name or blocks.startswith(f"{owner}.") or order.index(owner) < order.index(blocks)
    return len(keys) + 1 if is_below else 0
