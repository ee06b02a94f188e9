"""What a momentum teacher gives a dual encoder beside its pairs, soft targets and a queue: guidance.py.

hidden_words.py: what is left of a text for a student to read.
"""
