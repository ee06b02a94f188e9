"""What the gate asks DVC: fetch.py, what it must pull; versions.py, packages that changed."""
