"""Tables as Markdown, LaTeX, HTML, CSV and terminal text. The same table gives the same bytes."""
