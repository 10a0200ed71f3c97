"""Sweeps: the cells of a multirun, their states, their cost, and the workers that run them."""
