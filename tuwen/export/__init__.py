"""Models for runtimes of other people: onnx_form.py. No stage needs it."""
