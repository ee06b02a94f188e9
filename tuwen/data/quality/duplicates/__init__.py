"""Images that show the same, captions that say the same, and what must stay in one split because of it.

Read components.py first, then near_duplicates.py, groups.py, captions.py and counterparts.py.
"""
