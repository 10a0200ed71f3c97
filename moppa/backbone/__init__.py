"""Pretrained timm models: weights, preprocessing, and what a step may skip."""
