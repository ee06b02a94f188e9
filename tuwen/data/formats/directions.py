"""The two ways to search; without a dependency, since result files are checked on bare machines too."""

from typing import NamedTuple


class Direction(NamedTuple):
    """One way to search: by a text for images, or by an image for texts."""

    name: str  # as in the names of files, columns and metrics
    title: str  # as people read it
    queries: str  # the table, and the array of vectors, of the queries ...
    gallery: str  # ... and of what they search
    query_id: str  # the id column of the one ...
    gallery_id: str  # ... and of the other


DIRECTIONS = {
    "t2i": Direction("t2i", "text → image", "texts", "images", "text_id", "image_id"),
    "i2t": Direction("i2t", "image → text", "images", "texts", "image_id", "text_id"),
}
