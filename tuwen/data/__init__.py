"""From foreign files to clean pairs and their views: formats, sources, quality and augment, in this order.

Beside them, inspection drafts a preset for somebody's files.
"""
