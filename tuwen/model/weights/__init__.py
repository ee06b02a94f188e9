"""Weights of other origins, in and out.

Read load.py first, then start.py, hugging_face.py, cn_clip.py and open_clip.py.
"""
