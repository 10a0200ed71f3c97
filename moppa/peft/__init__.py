"""How a method meets a backbone: injection, blocks, target layers, and what is collected from them."""
