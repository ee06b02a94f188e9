"""The dual encoder and the cross encoder over its tokens: their layers, their weights as files, and the device.

Read dual_encoder.py first, then towers.py, image_towers, text_towers, libraries, architectures.py, state_dict.py,
stored_model.py, vocabulary_file.py, device.py, precision.py, tower_layers.py, card.py, adapter.py and weights; for
the re-ranker image_tokens.py, cross_block.py, cross_encoder.py, reranker.py and attention_map.py.
"""
