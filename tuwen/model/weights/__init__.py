"""Weights from elsewhere, in and out.

Read load.py first, then published.py, hugging_face.py, cn_clip.py, open_clip.py and pixel_config.py;
export.py and graphs.py are the way back. r2d2.py is both ways, of a re-ranker.
"""
