"""A sweep: which cells it has, how far each is, and what is left will cost."""
