"""What a momentum teacher gives a dual encoder beside its pairs.

guidance.py: soft targets and a queue (TgD). features.py: the teacher's vectors of whole texts (FgD), while the
student reads what hidden_words.py leaves of them.
"""
