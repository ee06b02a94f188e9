"""What a pair is, on disk and in memory.

In reading order:
    pairs.py        the tables of a set, and its two directions of search
    shards.py       images in tar shards: written in sequence, read by offset
    manifest.py     what a folder was made from
    images.py       encoded bytes -> the pixels that a model sees
    text.py         captions: normal form, variants, tokens
    text_files.py   CSV and JSONL of unknown encoding
    json_file.py    one JSON file
    tar_stream.py   WebDataset tars from anywhere, as a stream
    pinned.py       published files, named by their sha256 or commit
"""
