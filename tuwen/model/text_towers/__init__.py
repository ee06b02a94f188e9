"""Text towers of our own: bert.py."""
