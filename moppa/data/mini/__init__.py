"""Draws the images of the mini suite from a seed: the same bytes on every machine.

Each task has one function (seed, index) -> (image, class). Random numbers are the bytes of SHAKE-256. Arithmetic is
limited to operations that IEEE 754 rounds in exactly one way: element-wise sums, products, quotients and square roots.
Sines come from a table of integers. No random generator, no sum over an array and no math library is involved.
"""
