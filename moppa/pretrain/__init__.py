"""How the small backbone's weights were made: by distilling a large one, or by filling in masked patches."""
