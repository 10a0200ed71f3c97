"""MoPPA: the operator, the unit that applies it, and its use on any timm model."""
