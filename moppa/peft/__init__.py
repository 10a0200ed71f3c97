"""How a method attaches to a backbone: injection, blocks, target layers, and what is collected from them."""
