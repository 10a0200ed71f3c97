"""The methods that MoPPA is compared with: one a file, each from its paper, each held to the same laws."""
