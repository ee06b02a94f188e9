"""From foreign files to clean pairs and their views: formats, sources, quality, augment."""
