"""data/clean/quality.html: page.py, then odd_images.py, which chooses the images to look at."""
