"""data/clean/quality.html: page.py, then odd_images.py and copies.py, which choose the images to look at."""
