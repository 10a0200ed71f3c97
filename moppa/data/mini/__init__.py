"""Images drawn from a seed, the same bytes on every machine: one function for a task, from (seed, index) to an image.

Draws are the bytes of SHAKE-256. Arithmetic is that which IEEE 754 rounds in one way only: sums, products, quotients
and square roots, element by element; sines come from a table of whole numbers. No random generator, sum over an array
or mathematical library takes part.
"""
