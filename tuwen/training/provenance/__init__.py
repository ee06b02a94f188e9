"""What a training is made from, as its manifest and the key of its checkpoint name it: inputs.py."""
