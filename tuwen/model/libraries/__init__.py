"""Whole dual encoders of libraries as an image tower and a text tower.

Read library_towers.py first, of transformers, then open_clip_towers.py.
"""
