"""A finished cell in the formats of other libraries: timm, HF peft and ONNX."""
