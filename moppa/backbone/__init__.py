"""Pretrained timm models: their weights, their preprocessing, and the computation that a step can skip."""
