"""What a pair is, on disk and in memory.

In reading order:
    pairs.py        the tables of a set
    directions.py   the two ways to search: texts -> images, images -> texts
    shards.py       images in tar shards: written in sequence, read by offset
    manifest.py     what a folder was made from
    images.py       encoded bytes -> the pixels that a model sees
    looks.py        how an image looks, in 1.5 kB
    near_looks.py   whether two images show one picture
    text.py         captions: normal form, variants, tokens
    text_files.py   CSV and JSONL of unknown encoding
    json_file.py    one JSON file
    checked_json.py a JSON file of a known form
    tar_stream.py   WebDataset tars from anywhere, as a stream
    pinned.py       published files, named by their sha256 or commit
"""
