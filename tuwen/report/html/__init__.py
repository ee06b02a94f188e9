"""Parts of HTML pages: page.py, histogram.py, confusion.py."""
