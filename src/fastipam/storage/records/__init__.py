"""The bytes of every key and value that the store holds."""
