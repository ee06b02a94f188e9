"""The dual encoder: its two towers, its weights as files, and the device that it runs on.

Read dual_encoder.py first, then towers.py, vit.py, architectures.py, state_dict.py, vocabulary_file.py, device.py,
card.py and weights.
"""
