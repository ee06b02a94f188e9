"""What a model is worth.

Read evaluate.py first. A set is read (embedded_set.py), answered (answers.py) and measured (figures.py, whose rows
are of the types in metric.py; hubness.py; the folder seen sets queries apart whose caption stands in train).
ranks.py, details.py and zero_shot_file.py write and read the files beside metrics.json; zero_shot.py classifies.
models.py names the models that are compared, results.py reads what was measured of them, headline.py lays it side
by side, verdicts.py says in words what may be claimed, and compare.py is for the gate. Of the folders, reranked
measures a model that reorders what another finds, and external anybody's embeddings; image_folder.py classifies
anybody's images.
"""
