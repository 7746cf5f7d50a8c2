"""Export: checkpoint in; ONNX variants, gates and golden samples out."""
