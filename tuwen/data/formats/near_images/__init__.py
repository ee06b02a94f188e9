"""Which images show one picture: how each looks, and whether two looks are near.

Read looks.py first, then near_looks.py.
"""
