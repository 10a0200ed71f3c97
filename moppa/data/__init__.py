"""Loads the images of a task as uint8 arrays: sources, the cache of resized images, and the check of the splits."""
