"""Which part of an image each entity of a caption is about, in the eyes of a re-ranker.

Read entities.py first, the nouns of a caption and where they stand, then entity_maps.py, a map for each.
"""
