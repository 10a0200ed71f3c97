"""How fast the harness is, and beside what: the parts of `scripts/bench.py`."""
