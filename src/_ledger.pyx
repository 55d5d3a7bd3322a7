# cython: language_level=3, embedsignature=False, auto_pickle=False
"""What an agent does for every pod, in native code."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

include "_request.pxi"
include "_serve.pxi"
