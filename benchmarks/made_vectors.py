"""Made unit vectors in clusters, as real pictures lie: of independent ones no approximate index finds much."""

import numpy as np

from tuwen.retrieval.vectors import Vectors

DIMENSIONS, CLUSTER_ITEMS = 512, 50
SPREAD = 0.7  # of an item around its centre, by dimension, where centres have 1
BLOCK_ROWS = 10_000


def fill_with_clusters(out: Vectors, seed: int) -> None:
    """Fill `out` [N, DIMENSIONS] with unit vectors, block by block; row n is of one cluster whatever the seed."""
    same, own = np.random.default_rng(0), np.random.default_rng([1, seed])
    centres = same.standard_normal((max(1, len(out) // CLUSTER_ITEMS), DIMENSIONS), np.float32)
    cluster = same.integers(len(centres), size=len(out))
    for start in range(0, len(out), BLOCK_ROWS):
        block = centres[cluster[start : start + BLOCK_ROWS]]
        block += np.float32(SPREAD) * own.standard_normal(block.shape, np.float32)
        out[start : start + BLOCK_ROWS] = block / np.linalg.norm(block, axis=1, keepdims=True)


def draw_queries(vectors: Vectors, count: int, noise: float = 0.02) -> Vectors:
    """Return queries [count, D] near `count` of the vectors, spread over all rows."""
    near = vectors[np.linspace(0, len(vectors) - 1, count).astype(int)]
    moved = near + noise * np.random.default_rng(1).normal(size=near.shape)
    return (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)
