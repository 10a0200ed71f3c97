"""Tables, figures and pages, computed from records and never edited by hand."""
