"""The methods that MoPPA is compared with: one per file, from its paper, tested by the laws of `tests/test_laws.py`."""
