"""Pretraining of vit_micro: by distillation from a large backbone, or as a masked autoencoder."""
