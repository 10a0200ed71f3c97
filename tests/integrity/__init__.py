"""Edits of results that must not pass as results."""
