"""Image towers that are no transformer: efficientnet.py."""
