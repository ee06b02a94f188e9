"""The dual encoder: its towers, and the device that it runs on.

Read dual_encoder.py first, then towers.py, vit.py, architectures.py, state_dict.py, device.py, card.py and
weights.
"""
