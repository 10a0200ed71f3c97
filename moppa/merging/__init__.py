"""Model merging: one backbone out of the finished cells of many tasks. One algorithm a file."""
