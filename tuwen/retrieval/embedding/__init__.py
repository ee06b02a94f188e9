"""What is imported where a model must compute vectors: vector_parts.py."""
