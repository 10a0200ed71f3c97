"""MoPPA: the operator, the unit, and its use on any timm model."""
