"""What embed.py imports where a model must compute: vector_parts.py."""
