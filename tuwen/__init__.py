"""tuwen (图文): from image-text pairs to a Chinese retrieval model that can be trusted."""

__version__ = "0.1.0"
