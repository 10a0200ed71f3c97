"""MoPPA: parameter-efficient fine-tuning of vision transformers on VTAB-1K, so that every number can be repeated."""
