"""An index: the vectors of a model and what they stand for, as an out, and the stores that answer from it.

Read items.py first, the tables of what may be found, with picture_sizes.py, which measures pictures; then
build.py, which makes the folder, with vector_files.py, which writes the vectors, and growth.py, which measures
how sure first answers are, item_index.py, which opens it, store.py, what every store can do, exact.py, the one
that needs nothing but the folder, with first_pass.py, milvus.py, the one for what outgrows one machine, and
stores.py, which takes the one that params.yaml names.
"""
