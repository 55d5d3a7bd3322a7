"""The engines of cluster mode, a folder or module each; ``connect`` lists them."""
