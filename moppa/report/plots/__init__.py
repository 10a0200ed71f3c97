"""Figures of a table: data, style, static and interactive charts."""
