"""A cell's record: schema, key, writing and checks."""
