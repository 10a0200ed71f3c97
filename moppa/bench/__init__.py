"""Benchmarks: the parts of `moppa bench`."""
