"""What a model is worth.

Read evaluate.py first, then figures.py, details.py, findings.py, headline.py, compare.py, external.py,
zero_shot.py and image_folder.py.
"""
