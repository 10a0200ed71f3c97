"""Helpers that know nothing about images, models or methods."""
