"""Clusters of patches: found again where there are some, the same at every run."""

import pytest
import torch
from torch.nn import functional

from tuwen.core.errors import UserError
from tuwen.reranking.clusters import find_clusters


def make_patches() -> tuple[torch.Tensor, torch.Tensor]:
    """Return three heaps of patches, and which heap each is of."""
    generator = torch.Generator().manual_seed(1)
    heap = torch.arange(300) % 3
    centres = torch.randn(3, 16, generator=generator) * 3
    return centres[heap] + 0.1 * torch.randn(300, 16, generator=generator), heap


def test_heaps_of_patches_are_told_apart_and_every_run_finds_the_same() -> None:
    patches, heap = make_patches()
    centres = find_clusters(patches, 3, 0)
    nearest = torch.cdist(functional.layer_norm(patches, (16,)), centres).argmin(1)
    assert len({(a, b) for a, b in zip(nearest.tolist(), heap.tolist(), strict=True)}) == 3
    assert torch.equal(centres, find_clusters(patches, 3, 0))


def test_more_clusters_than_patches_are_named() -> None:
    with pytest.raises(UserError, match=r"rerank\.clusters: 8 are more than the 5 patches"):
        find_clusters(torch.randn(5, 4), 8, 0)
