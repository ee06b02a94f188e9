"""WebDataset tars from anywhere: which members belong together, read as a stream.

Read tar_stream.py first, then tar_keys.py and tar_names.py; and for shards that stay where they are
listed_shard.py and mended_file.py.
"""
