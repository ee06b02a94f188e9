"""Weights from elsewhere, in and out.

Read load.py first, then published.py, hugging_face.py, cn_clip.py, open_clip.py, wheel_encoders.py with wheels/,
and pixel_config.py; library.py, library_pictures.py, fg_clip.py and open_clip_hub.py are of whole models,
positions.py of pictures of another size; export.py and graphs.py are the way back. r2d2.py is both ways, of a
re-ranker.
"""
