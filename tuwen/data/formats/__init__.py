"""What a pair is, on disk and in memory.

In reading order:
    pairs.py        the tables of a set
    directions.py   the two ways to search: texts -> images, images -> texts
    shards.py       images in tar shards: written in sequence, read by offset
    manifest.py     what a folder was made from
    images.py       encoded bytes -> the pixels that a model sees
    picture_rule.py how a picture becomes what a model sees: the project's rule, and those of published weights
    near_images/    how an image looks, and whether two looks are near
    text.py         captions: normal form, variants, tokens
    sides.py        left and right: what may be mirrored, and its caption
    tokens/         how a fresh vocabulary spells any caption, and what a model does not see of captions
    pair_tables.py  pairs as people list them: relevance, truth
    text_files.py   CSV and JSONL of unknown encoding
    impostors.py    what stands where a file should be: pointers, pages, archives
    foreign_text/   how a text file is to be read: encoding, quotes, what was decoded wrongly before
    json_file.py    one JSON file
    checked_json.py a JSON file of a known form
    file_names.py   the ways in which the name of a file may be read
    image_files.py  names of image files: which mean one, and which file a name means
    foreign_tar/    WebDataset tars from anywhere, as a stream
    pinned.py       published files, named by their sha256 or commit
"""
