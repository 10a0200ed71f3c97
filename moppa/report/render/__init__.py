"""A table as Markdown, LaTeX, HTML or terminal text."""
