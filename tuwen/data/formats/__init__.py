"""What a pair is, on disk and in memory.

Read pairs.py first, then shards.py, tar_stream.py, manifest.py, images.py, text.py, text_files.py and pinned.py.
"""
