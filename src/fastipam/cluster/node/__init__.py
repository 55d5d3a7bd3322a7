"""A node's side of the block protocol."""
