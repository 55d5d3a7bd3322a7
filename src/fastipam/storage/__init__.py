"""The LMDB environment of a data directory: the only package that uses lmdb."""
