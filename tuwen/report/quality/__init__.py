"""data/clean/quality.html: page.py, odd_images.py."""
