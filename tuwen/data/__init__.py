"""From foreign files to clean pairs and their views: formats, sources, quality and augment, in this order."""
