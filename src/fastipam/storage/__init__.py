"""The store of a data directory; the only package that uses lmdb."""
