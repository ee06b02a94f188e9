"""Image towers of our own: vit.py, mean_vit.py, whose patches are averaged, and efficientnet.py."""
