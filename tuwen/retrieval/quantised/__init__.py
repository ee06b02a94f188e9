"""A gallery in fewer bytes: codes.py makes them, search.py answers from them, recall.py says what they cost."""
