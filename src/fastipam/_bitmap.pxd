"""What fastipam._ledger uses of the tree of pages; _bitmap.pyx has what each of them does."""

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from *:
    """
    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "pages are stored as little-endian words: this host would need a byte swap"
    #endif
    typedef unsigned __int128 fastipam_u128;
    """
    # Cython takes this for its widest integer; the C compiler computes in 128 bits. Cython must not
    # convert a value of this type to or from a Python object: to_python and from_python do.
    ctypedef unsigned long long u128 "fastipam_u128"

cdef enum:
    PAGE_SHIFT = 12
    PAGE_BITS = 4096
    PAGE_WORDS = 64
    PAGE_BYTES = 512
    LEVELS = 11  # 11 * 12 bits cover the 128 of an IPv6 address
    SPARE_PAGES = 8  # emptied pages kept for reuse: churn on a nearly empty pool calls no malloc

cdef struct Page:
    u128 index
    uint64_t summary
    uint32_t level
    uint32_t used
    bint dirty
    bint stored  # StoredPages: the transaction has this page, perhaps in an older state
    uint64_t unused[3]  # padding, so that the words begin on a cache line
    uint64_t words[PAGE_WORDS]


cdef object to_python(u128 value)
cdef u128 from_python(object value) except? <u128>1 << 77


cdef class _Tree:
    cdef Page** _slots
    cdef size_t _slot_mask
    cdef size_t _page_count
    cdef Page* _hot[LEVELS]  # the page last used of each level: the next call usually needs it
    cdef Page* _spare[SPARE_PAGES]
    cdef int _spare_count

    @cython.final
    cdef void _forget(self) noexcept
    @cython.final
    cdef size_t _home(self, uint32_t level, u128 index) noexcept nogil
    @cython.final
    cdef Page* _find(self, uint32_t level, u128 index) noexcept nogil
    cdef int _load(self, uint32_t level, u128 index, Page** found) except -1 nogil
    @cython.final
    cdef int _get(self, uint32_t level, u128 index, Page** found) except -1 nogil
    @cython.final
    cdef int _get_or_add(self, uint32_t level, u128 index, Page** found) except -1 nogil
    @cython.final
    cdef void _warm(self, Page* page) noexcept nogil
    @cython.final
    cdef Page* _add(self, uint32_t level, u128 index) except NULL nogil
    @cython.final
    cdef void _insert(self, Page* page) noexcept nogil
    @cython.final
    cdef int _grow(self) except -1 nogil
    @cython.final
    cdef void _remove(self, Page* page) noexcept nogil
    cdef void _emptied(self, Page* page) noexcept nogil
    @cython.final
    cdef int _next_free(self, u128 start, u128 last, u128* found) except -1 nogil
    @cython.final
    cdef Page* _page_behind(self, Page* page, int* bit) noexcept nogil
    @cython.final
    cdef int _climb(self, uint32_t level, u128 position, u128 last, u128* found) except -1 nogil
    @cython.final
    cdef int _contains(self, u128 index) except -1 nogil
    @cython.final
    cdef int _set(self, u128 index) except -1 nogil
    @cython.final
    cdef int _clear(self, u128 index) except -1 nogil
    @cython.final
    cdef int _put(self, Page* page, uint32_t offset) except -1 nogil
    @cython.final
    cdef int _fills_up(self, Page* page) except -1 nogil
    @cython.final
    cdef int _drop(self, Page* page, uint32_t offset) except -1 nogil
    @cython.final
    cdef int _opens(self, Page* page) except -1 nogil
    @cython.final
    cdef int _take(
        self, u128 start, u128 last, uint64_t wanted, uint64_t* low, uint64_t* high, uint64_t* got
    ) except -1 nogil
    @cython.final
    cdef u128 _count(self, u128 low, u128 high) noexcept nogil
    @cython.final
    cdef list _page_indices(self, u128 low, u128 high)
    @cython.final
    cdef int _look(self, uint32_t level, u128 index, Page** found) except -1
    @cython.final
    cdef void _verify(self) except *


cdef class StoredPages(_Tree):
    cdef object _get_value, _put_value, _delete_value, _db
    cdef bytes _prefix
    cdef int _index_bytes
    cdef size_t _changed
    cdef public list journal

    cdef void bind(self, get, put, delete)
    cpdef flush(self)
    cdef bytes _key(self, uint32_t level, u128 index)
    cdef int _read(self, uint32_t level, u128 index, Page** found) except -1
    cdef int take_next(self, u128 first, u128 last, u128* found) except -1
    cdef int set_bit(self, u128 index) except -1
    cdef int clear_bit(self, u128 index) except -1
    cdef int take_many(
        self, u128 first, u128 last, uint64_t wanted, uint64_t* low, uint64_t* high, uint64_t* got
    ) except -1
