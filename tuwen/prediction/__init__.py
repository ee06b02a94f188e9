"""The answers to the tasks. Read predict.py first, then correct.py, result_file.py and check.py."""
