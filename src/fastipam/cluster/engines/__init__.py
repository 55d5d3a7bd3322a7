"""Engines that cluster mode can run on, a folder or module each; ``connect`` lists them."""
