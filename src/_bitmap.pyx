# cython: language_level=3, embedsignature=False, auto_pickle=False, binding=False
"""The tree of 4096-bit pages, which finds a free index in a constant number of steps.

A *page* is 64 words of 64 bits and a *summary* word. Bit i of the summary says that word i is full,
so searching a page takes two count-trailing-zeros. A bit of a page of level 0 stands for an index,
and is set when the index is taken. A bit of a page of level k stands for a page of level k-1, and
is set when that page is full. A page that does not exist has no set bit. The search goes up while
pages are full, then down to the first page that is not: it visits at most two pages a level,
whatever the fill, and only the levels that the searched interval spans.

The class ``_Tree`` implements this over a table of pages in memory. ``Bitmap`` is that table
alone. ``StoredPages`` reads missing pages from an LMDB transaction and writes the changed ones
back; an object of it serves one transaction.

``_bitmap.pxd`` declares what the other extension module, ``_ledger``, uses from here.

Indices are unsigned integers of up to 128 bits, because an IPv6 address is an index. The C code
computes with 128-bit integers; Python integers are converted on entry and on return.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.long cimport (
    PyLong_AsLongLongAndOverflow,
    PyLong_AsUnsignedLongLong,
    PyLong_CheckExact,
)
from cpython.number cimport PyNumber_Index
from cpython.pythread cimport (
    PyThread_acquire_lock,
    PyThread_allocate_lock,
    PyThread_free_lock,
    PyThread_release_lock,
    PyThread_type_lock,
    WAIT_LOCK,
)
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from fastipam import late_errors as errors

cdef extern from "stdlib.h" nogil:
    void* aligned_alloc(size_t alignment, size_t size)

cdef extern from "Python.h":
    object PyLong_FromUnsignedLongLong(unsigned long long value)

cdef extern from *:
    # A C macro, not a Cython variable, so that the C compiler knows its value.
    const uint64_t FULL "UINT64_MAX"
    int ctz "__builtin_ctzll"(uint64_t word) noexcept nogil
    int popcount "__builtin_popcountll"(uint64_t word) noexcept nogil

cdef object to_python(u128 value):
    cdef uint64_t high = <uint64_t>(value >> 64)
    cdef uint64_t low = <uint64_t>value
    if high == 0:
        return PyLong_FromUnsignedLongLong(low)
    return (PyLong_FromUnsignedLongLong(high) << 64) | PyLong_FromUnsignedLongLong(low)


cdef u128 from_python(object value) except? <u128>1 << 77:
    """Return the index of a Python int. The caller has checked that it fits into 128 bits."""
    cdef int overflow = 0
    cdef long long small = PyLong_AsLongLongAndOverflow(value, &overflow)
    if not overflow and small >= 0:
        return <u128><uint64_t>small
    return (
        <u128>PyLong_AsUnsignedLongLong(value >> 64) << 64
        | <u128>PyLong_AsUnsignedLongLong(value & 0xFFFFFFFFFFFFFFFF)
    )


cdef inline int next_zero(const Page* page, uint32_t offset) noexcept nogil:
    """Return the first clear bit at or after ``offset``, or PAGE_BITS when there is none."""
    cdef uint32_t word = offset >> 6
    cdef uint64_t open_bits = ~page.words[word] & (FULL << (offset & 63))
    cdef uint64_t open_words
    if open_bits:
        return <int>(word << 6) + ctz(open_bits)
    if word == PAGE_WORDS - 1:
        return PAGE_BITS
    open_words = ~page.summary & (FULL << (word + 1))
    if open_words == 0:
        return PAGE_BITS
    word = ctz(open_words)
    return <int>(word << 6) + ctz(~page.words[word])


cdef inline void mark(Page* page, uint32_t offset) noexcept nogil:
    """Set a clear bit of a page. The caller updates the parent of a page that becomes full."""
    cdef uint32_t word = offset >> 6
    page.words[word] |= <uint64_t>1 << (offset & 63)
    page.used += 1
    page.dirty = True
    if page.words[word] == FULL:
        page.summary |= <uint64_t>1 << word


cdef inline void unmark(Page* page, uint32_t offset) noexcept nogil:
    """Clear a set bit of a page. The caller updates the parent of a page that was full."""
    page.words[offset >> 6] &= ~(<uint64_t>1 << (offset & 63))
    page.summary &= ~(<uint64_t>1 << (offset >> 6))
    page.used -= 1
    page.dirty = True


cdef inline void recount(Page* page) noexcept nogil:
    """Compute ``summary`` and ``used`` from the words."""
    cdef int word
    page.summary = 0
    page.used = 0
    for word in range(PAGE_WORDS):
        page.used += popcount(page.words[word])
        if page.words[word] == FULL:
            page.summary |= <uint64_t>1 << word


cdef inline bint says_full(const Page* parent, u128 index) noexcept nogil:
    """Return whether ``parent`` marks the page ``index`` below it as full."""
    return (parent.words[(index >> 6) & 63] >> (index & 63)) & 1


cdef object disagreement(const Page* page, str what):
    """Return the StoreCorrupt for a page and its parent that contradict each other."""
    return errors.StoreCorrupt(
        f"page {to_python(page.index)} of level {page.level} is {what}",
        hint="run `fastipam check`",
    )


cdef inline uint64_t mask_of(uint32_t word, uint32_t low, uint32_t high) noexcept nogil:
    """Return the mask of the bits of one word that lie in low..high, both included."""
    cdef uint64_t mask = FULL
    if word == low >> 6:
        mask &= FULL << (low & 63)
    if word == high >> 6:
        mask &= FULL >> (63 - (high & 63))
    return mask


cdef class _Tree:
    """The tree and its search: a hash table of pages, keyed by (level, page index).

    The *hot* page of a level is the page that was used last: the next call usually needs it.
    """

    def __cinit__(self, *_args, **_kwargs):
        self._slots = <Page**>calloc(8, sizeof(Page*))
        if self._slots == NULL:
            raise MemoryError
        self._slot_mask = 7

    def __dealloc__(self):
        if self._slots != NULL:
            self._forget()
            free(self._slots)
        while self._spare_count:
            self._spare_count -= 1
            free(self._spare[self._spare_count])

    @cython.final
    cdef void _forget(self) noexcept:
        """Free every page."""
        cdef size_t at
        for at in range(self._slot_mask + 1):
            if self._slots[at] != NULL:
                free(self._slots[at])
                self._slots[at] = NULL
        self._page_count = 0
        memset(self._hot, 0, sizeof(self._hot))

    # The table -----------------------------------------------------------------------------

    @cython.final
    cdef inline size_t _home(self, uint32_t level, u128 index) noexcept nogil:
        # Multiplicative hashing with digits of the golden ratio and of splitmix64. The level goes
        # into the top bits, which page indices hardly ever use.
        cdef uint64_t mixed = <uint64_t>index ^ (<uint64_t>level << 60)
        mixed ^= <uint64_t>(index >> 64) * <uint64_t>0xBF58476D1CE4E5B9
        mixed *= <uint64_t>0x9E3779B97F4A7C15
        return <size_t>(mixed >> 32) & self._slot_mask

    @cython.final
    cdef inline Page* _find(self, uint32_t level, u128 index) noexcept nogil:
        cdef size_t at = self._home(level, index)
        cdef Page* page = self._slots[at]
        while page != NULL:
            if page.index == index and page.level == level:
                return page
            at = (at + 1) & self._slot_mask
            page = self._slots[at]
        return NULL

    cdef int _load(self, uint32_t level, u128 index, Page** found) except -1 nogil:
        """Load a page that the table misses. A class with another source of pages overrides it."""
        found[0] = NULL
        return 0

    @cython.final
    cdef inline int _get(self, uint32_t level, u128 index, Page** found) except -1 nogil:
        """Find a page, loading it if necessary. NULL: the page does not exist, it is all free."""
        cdef Page* hot = self._hot[level]
        if hot != NULL and hot.index == index:
            found[0] = hot
            return 0
        found[0] = self._find(level, index)
        if found[0] == NULL:
            self._load(level, index, found)
        if found[0] != NULL:
            self._warm(found[0])
        return 0

    @cython.final
    cdef inline int _get_or_add(self, uint32_t level, u128 index, Page** found) except -1 nogil:
        self._get(level, index, found)
        if found[0] == NULL:
            found[0] = self._add(level, index)
            self._warm(found[0])
        return 0

    @cython.final
    cdef inline void _warm(self, Page* page) noexcept nogil:
        """Make this the hot page of its level; drop the previous hot page if it is empty."""
        cdef Page* before = self._hot[page.level]
        self._hot[page.level] = page
        if before != NULL and before != page and before.used == 0:
            self._emptied(before)

    @cython.final
    cdef Page* _add(self, uint32_t level, u128 index) except NULL nogil:
        """Add an empty page to the table. MemoryError leaves the table unchanged."""
        cdef Page* page
        if 2 * (self._page_count + 1) > self._slot_mask + 1:
            self._grow()
        if self._spare_count:
            self._spare_count -= 1
            page = self._spare[self._spare_count]
        else:
            page = <Page*>aligned_alloc(64, sizeof(Page))
            if page == NULL:
                with gil:
                    raise MemoryError
        memset(page, 0, sizeof(Page))
        page.level = level
        page.index = index
        self._insert(page)
        self._page_count += 1
        return page

    @cython.final
    cdef void _insert(self, Page* page) noexcept nogil:
        cdef size_t at = self._home(page.level, page.index)
        while self._slots[at] != NULL:
            at = (at + 1) & self._slot_mask
        self._slots[at] = page

    @cython.final
    cdef int _grow(self) except -1 nogil:
        cdef size_t old_mask = self._slot_mask
        cdef Page** old = self._slots
        cdef Page** slots = <Page**>calloc(2 * (old_mask + 1), sizeof(Page*))
        cdef size_t at
        if slots == NULL:
            with gil:
                raise MemoryError
        self._slots = slots
        self._slot_mask = 2 * old_mask + 1
        for at in range(old_mask + 1):
            if old[at] != NULL:
                self._insert(old[at])
        free(old)
        return 0

    @cython.final
    cdef void _remove(self, Page* page) noexcept nogil:
        """Remove a page from the table and close the gap (linear probing without tombstones)."""
        cdef size_t hole = self._home(page.level, page.index)
        cdef size_t at, home
        cdef Page* other
        while self._slots[hole] != page:
            hole = (hole + 1) & self._slot_mask
        at = hole
        while True:
            at = (at + 1) & self._slot_mask
            other = self._slots[at]
            if other == NULL:
                break
            home = self._home(other.level, other.index)
            # Move the other page into the hole unless its home lies cyclically behind the hole.
            if ((at - home) & self._slot_mask) >= ((at - hole) & self._slot_mask):
                self._slots[hole] = other
                hole = at
        self._slots[hole] = NULL
        self._page_count -= 1
        if self._spare_count < SPARE_PAGES:
            self._spare[self._spare_count] = page
            self._spare_count += 1
        else:
            free(page)

    cdef void _emptied(self, Page* page) noexcept nogil:
        """Remove a page without a set bit from the table, and free its memory."""
        self._remove(page)

    # The search ----------------------------------------------------------------------------

    @cython.final
    cdef int _next_free(self, u128 start, u128 last, u128* found) except -1 nogil:
        """Find the first free index in start..last: 1 if there is one. At most 2 * LEVELS pages."""
        return self._climb(0, start, last, found)

    @cython.final
    cdef inline Page* _page_behind(self, Page* page, int* bit) noexcept nogil:
        """Return the next level 0 page that is not full and set ``bit`` to its first clear bit.

        That page becomes the hot page of level 0. Only the hot page of level 1 and the table are
        searched. When they do not have the page and its parent, return NULL and leave ``bit``.
        """
        cdef Page* parent = self._hot[1]
        cdef Page* found
        cdef u128 index = page.index + 1
        cdef int child
        if parent == NULL or parent.index != index >> PAGE_SHIFT:
            return NULL
        child = next_zero(parent, <uint32_t>index & (PAGE_BITS - 1))
        if child == PAGE_BITS:
            return NULL
        found = self._find(0, (parent.index << PAGE_SHIFT) + <u128>child)
        if found != NULL:
            bit[0] = next_zero(found, 0)
            self._warm(found)
        return found

    @cython.final
    cdef int _climb(
        self, uint32_t level, u128 position, u128 last, u128* found
    ) except -1 nogil:
        """Find the first free index at or after bit ``position`` of ``level``, up to ``last``."""
        cdef u128 bound = last >> (PAGE_SHIFT * level)
        cdef Page* page
        cdef int bit
        if position > bound:
            return 0
        while True:  # up, to the first page that is not full from here on
            self._get(level, position >> PAGE_SHIFT, &page)
            if page == NULL:
                break
            bit = next_zero(page, <uint32_t>position & (PAGE_BITS - 1))
            if bit < PAGE_BITS:
                position = (page.index << PAGE_SHIFT) + <u128>bit
                if position > bound:
                    return 0
                break
            position = page.index + 1
            bound >>= PAGE_SHIFT
            level += 1
            if position > bound or level == LEVELS:
                return 0
        while level:  # down, always to the first child that is not full
            level -= 1
            self._get(level, position, &page)
            position <<= PAGE_SHIFT
            if page != NULL:
                bit = next_zero(page, 0)
                if bit == PAGE_BITS:
                    with gil:
                        raise disagreement(page, "full, but the page above it does not say so")
                position += <u128>bit
        if position > last:
            return 0
        found[0] = position
        return 1

    @cython.final
    cdef int _contains(self, u128 index) except -1 nogil:
        cdef Page* page
        self._get(0, index >> PAGE_SHIFT, &page)
        if page == NULL:
            return 0
        return (page.words[(index >> 6) & 63] >> (index & 63)) & 1

    @cython.final
    cdef int _set(self, u128 index) except -1 nogil:
        """Set a bit and return 1 if it was clear, 0 if it was set."""
        cdef Page* page
        cdef uint32_t offset = <uint32_t>index & (PAGE_BITS - 1)
        self._get_or_add(0, index >> PAGE_SHIFT, &page)
        if (page.words[offset >> 6] >> (offset & 63)) & 1:
            return 0
        self._put(page, offset)
        return 1

    @cython.final
    cdef inline int _clear(self, u128 index) except -1 nogil:
        """Clear a bit and return 1 if it was set, 0 if it was clear."""
        cdef Page* page
        cdef uint32_t offset = <uint32_t>index & (PAGE_BITS - 1)
        self._get(0, index >> PAGE_SHIFT, &page)
        if page == NULL or not (page.words[offset >> 6] >> (offset & 63)) & 1:
            return 0
        self._drop(page, offset)
        return 1

    @cython.final
    cdef inline int _put(self, Page* page, uint32_t offset) except -1 nogil:
        """Set a clear bit, and first the page's bit in its parent if the page becomes full.

        An error, such as no memory for a parent, occurs before any bit is changed.
        """
        if page.used == PAGE_BITS - 1:
            self._fills_up(page)
        mark(page, offset)
        return 0

    @cython.final
    cdef inline int _fills_up(self, Page* page) except -1 nogil:
        """Set this page's bit in its parent."""
        cdef Page* parent
        if page.level < LEVELS - 1:
            self._get_or_add(page.level + 1, page.index >> PAGE_SHIFT, &parent)
            if says_full(parent, page.index):
                with gil:
                    raise disagreement(page, "not full, but the page above it says that it is")
            self._put(parent, <uint32_t>page.index & (PAGE_BITS - 1))
        return 0

    @cython.final
    cdef inline int _drop(self, Page* page, uint32_t offset) except -1 nogil:
        """Clear a set bit, and first the page's bit in its parent if the page was full."""
        if page.used == PAGE_BITS:
            self._opens(page)
        unmark(page, offset)
        return 0

    @cython.final
    cdef inline int _opens(self, Page* page) except -1 nogil:
        """Clear this page's bit in its parent."""
        cdef Page* parent
        if page.level < LEVELS - 1:
            self._get(page.level + 1, page.index >> PAGE_SHIFT, &parent)
            if parent == NULL or not says_full(parent, page.index):
                with gil:
                    raise disagreement(page, "full, but the page above it does not say so")
            self._drop(parent, <uint32_t>page.index & (PAGE_BITS - 1))
        return 0

    @cython.final
    cdef int _take(
        self, u128 start, u128 last, uint64_t wanted, uint64_t* low, uint64_t* high, uint64_t* got
    ) except -1 nogil:
        """Take up to ``wanted`` free indices of start..last, ascending.

        Their lower halves go into ``low``, the upper ones into ``high`` unless that is NULL.
        ``got`` is the number of indices taken, also when MemoryError or StoreCorrupt is raised.
        """
        cdef u128 position = start
        cdef Page* page
        cdef uint32_t offset, final
        cdef int bit
        while got[0] < wanted and self._next_free(position, last, &position):
            self._get_or_add(0, position >> PAGE_SHIFT, &page)
            final = PAGE_BITS - 1
            if page.index == last >> PAGE_SHIFT:
                final = <uint32_t>last & (PAGE_BITS - 1)
            bit = <int>position & (PAGE_BITS - 1)
            position = page.index << PAGE_SHIFT
            while bit <= <int>final and got[0] < wanted:
                offset = bit
                if page.used == PAGE_BITS - 1:
                    self._put(page, offset)
                else:
                    mark(page, offset)
                low[got[0]] = <uint64_t>(position + offset)
                if high != NULL:
                    high[got[0]] = <uint64_t>(position >> 64)
                got[0] += 1
                bit = PAGE_BITS if offset == PAGE_BITS - 1 else next_zero(page, offset + 1)
            if page.index == last >> PAGE_SHIFT:
                break
            position += PAGE_BITS
        return 0

    @cython.final
    cdef u128 _count(self, u128 low, u128 high) noexcept nogil:
        """Return the number of set bits in low..high, in the pages of the table."""
        cdef u128 first = low >> PAGE_SHIFT, final = high >> PAGE_SHIFT, index
        cdef u128 total = 0
        cdef size_t at
        cdef Page* page
        if final - first < <u128>self._page_count:
            for index in range(first, final + 1):
                page = self._find(0, index)
                if page != NULL:
                    total += count_page(page, low, high)
        else:
            for at in range(self._slot_mask + 1):
                page = self._slots[at]
                if page != NULL and page.level == 0 and first <= page.index <= final:
                    total += count_page(page, low, high)
        return total

    @cython.final
    cdef list _page_indices(self, u128 low, u128 high):
        """Return the indices of the level 0 pages of the table that touch low..high, ascending."""
        cdef size_t at
        cdef Page* page
        cdef list found = []
        for at in range(self._slot_mask + 1):
            page = self._slots[at]
            if page != NULL and page.level == 0:
                if low >> PAGE_SHIFT <= page.index <= high >> PAGE_SHIFT:
                    found.append(to_python(page.index))
        found.sort()
        return found

    @cython.final
    cdef int _look(self, uint32_t level, u128 index, Page** found) except -1:
        """Find a page as ``_get`` does, but leave the hot pages alone, so that none is freed."""
        found[0] = self._find(level, index)
        if found[0] == NULL:
            self._load(level, index, found)
        return 0

    @cython.final
    cdef void _verify(self) except *:
        """Assert that words, summaries and levels of the table agree."""
        cdef size_t at
        cdef Page* page
        cdef Page* other
        cdef Page copy
        cdef int bit
        cdef list every = []
        for at in range(self._slot_mask + 1):
            if self._slots[at] != NULL:
                every.append((self._slots[at].level, to_python(self._slots[at].index)))
        assert len(every) == self._page_count, f"{len(every)} pages, {self._page_count} counted"
        for page_level, page_index in every:
            where = f"page {page_index} of level {page_level}"
            page = self._find(page_level, from_python(page_index))
            assert page != NULL, f"{where}: cannot be found"
            copy = page[0]
            recount(&copy)
            assert copy.summary == page.summary, f"{where}: wrong summary {page.summary:#x}"
            assert copy.used == page.used, f"{where}: used is {page.used}, not {copy.used}"
            if page.level < LEVELS - 1:
                self._look(page.level + 1, page.index >> PAGE_SHIFT, &other)
                bit = other != NULL and says_full(other, page.index)
                assert bit == (page.used == PAGE_BITS), f"{where}: used {page.used}, parent {bit}"
            if page.level > 0:
                for bit in range(PAGE_BITS):
                    if (page.words[bit >> 6] >> (bit & 63)) & 1:
                        self._look(page.level - 1, (page.index << PAGE_SHIFT) | <u128>bit, &other)
                        assert other != NULL and other.used == PAGE_BITS, (
                            f"{where}: bit {bit} says full, the page below is not"
                        )


cdef u128 count_page(const Page* page, u128 low, u128 high) noexcept nogil:
    """Return the number of set bits of a level 0 page in low..high. The page touches low..high."""
    cdef u128 base = page.index << PAGE_SHIFT
    cdef uint32_t first = 0, final = PAGE_BITS - 1, word
    cdef u128 total = 0
    if low > base:
        first = <uint32_t>(low - base)
    if high < base + (PAGE_BITS - 1):
        final = <uint32_t>(high - base)
    if first == 0 and final == PAGE_BITS - 1:
        return page.used
    for word in range(first >> 6, (final >> 6) + 1):
        total += popcount(page.words[word] & mask_of(word, first, final))
    return total


@cython.final
cdef class Bitmap(_Tree):
    """A set of ``size`` indices from 0, each free or taken, in memory. All are free at first.

    ``size`` may be 1 to 2**128. Only 4096-bit pages with a taken index use memory: 2**20 indices
    take at most 153 KiB, and a few taken indices of 2**64 no more.

    Allocation is round robin: the search begins behind the index taken last, and wraps round.

    A call is atomic. ``allocate_many`` releases the GIL while it works, and calls from other
    threads wait for it.

    >>> bm = Bitmap(1 << 20)
    >>> bm.allocate(), bm.allocate(), bm.release(0), bm.used
    (0, 1, True, 1)
    """

    cdef readonly object size
    cdef u128 _last
    cdef u128 _cursor
    cdef u128 _used
    cdef Page* _untold  # a full page whose bit in its parent is not set yet, or NULL
    cdef bint _busy
    cdef PyThread_type_lock _lock

    def __cinit__(self, size):
        self._lock = PyThread_allocate_lock()
        if self._lock == NULL:
            raise MemoryError
        size = PyNumber_Index(size)
        if not 1 <= size <= 1 << 128:
            raise ValueError(f"size {size} is not within 1 and 2**128")
        self.size = size
        self._last = from_python(size - 1)

    def __init__(self, size):
        pass

    def __dealloc__(self):
        if self._lock != NULL:
            PyThread_free_lock(self._lock)

    cdef int _wait(self) except -1:
        """Wait until no other thread's ``allocate_many`` works on the pages without the GIL."""
        while self._busy:
            with nogil:
                PyThread_acquire_lock(self._lock, WAIT_LOCK)
                PyThread_release_lock(self._lock)
        return 0

    cdef inline int _index(self, object index, u128* value) except -1:
        """Convert an index. Returns 0 when it is outside; most callers raise IndexError then."""
        cdef long long small
        cdef int overflow = 0
        if not PyLong_CheckExact(index):
            index = PyNumber_Index(index)  # may run Python code, also of other threads
        if self._busy:
            self._wait()
        small = PyLong_AsLongLongAndOverflow(index, &overflow)
        if overflow:
            if index < 0 or index >= self.size:
                return 0
            value[0] = from_python(index)
            return 1
        if small < 0:
            return 0
        value[0] = <u128><uint64_t>small
        return value[0] <= self._last

    cdef int _bounds(self, object start, object stop, u128* low, u128* high) except -1:
        """Convert start..stop (exclusive; None is the size) to low..high; 0 when it is empty."""
        start = PyNumber_Index(start)
        stop = self.size if stop is None else PyNumber_Index(stop)
        if self._busy:
            self._wait()
        if start < 0 or start > self.size or stop > self.size:
            raise IndexError(f"{start}..{stop} reaches outside 0..{self.size}")
        if start >= stop:
            return 0
        low[0] = from_python(start)
        high[0] = from_python(stop - 1)
        return 1

    def allocate(self):
        """Take the next free index at or after the cursor, wrapping round, and return it.

        O(1): at most four pages a level. Raises PoolExhausted when none is free.
        """
        cdef u128 found
        cdef Page* page
        cdef int bit = PAGE_BITS
        if self._busy:
            self._wait()
        if self._untold != NULL:
            self._tell()
        page = self._hot[0]
        # Nearly every call is served by the hot page, or by the next page that the hot page of
        # level 1 names. Both are tried before the general search.
        if page != NULL and page.index == self._cursor >> PAGE_SHIFT:
            bit = next_zero(page, <uint32_t>self._cursor & (PAGE_BITS - 1))
            if bit == PAGE_BITS:
                page = self._page_behind(page, &bit)
            if bit < PAGE_BITS:
                found = (page.index << PAGE_SHIFT) + <u128>bit
                if found <= self._last:
                    if page.used == PAGE_BITS - 1:
                        self._untold = page
                    mark(page, bit)
                    return self._taken(found)
        if not (
            self._next_free(self._cursor, self._last, &found)
            or self._next_free(0, self._last, &found)
        ):
            raise errors.PoolExhausted(f"all {self.size} indices are taken")
        self._get_or_add(0, found >> PAGE_SHIFT, &page)
        self._put(page, <uint32_t>found & (PAGE_BITS - 1))
        return self._taken(found)

    cdef int _tell(self) except -1:
        """Set the parent's bit for the page that the last ``allocate`` filled.

        It is set late because in a nearly full bitmap an index is often released at once, and then
        the parent need not change. Everything that reads or writes upper levels calls this first.
        """
        if self._untold != NULL:
            self._fills_up(self._untold)
            self._untold = NULL
        return 0

    cdef inline object _taken(self, u128 index):
        """Count an index that was just taken, move the cursor behind it, and return it."""
        self._used += 1
        self._cursor = index + 1 if index != self._last else 0
        return to_python(index)

    def _nothing(self):
        """Do nothing. The benchmarks measure with it what calling a method of this type costs."""
        return None

    def allocate_many(self, count):
        """Take ``count`` indices, all or none, and return them as a numpy array.

        The order is that of ``count`` calls of ``allocate``. The dtype is int64 for sizes up to
        2**63, uint64 up to 2**64, and object (Python integers) above. O(count), without the GIL.
        Raises PoolExhausted when fewer are free, ValueError when ``count`` is negative.
        """
        import numpy

        cdef uint64_t wanted, got = 0
        cdef uint64_t* low = NULL
        cdef uint64_t* high = NULL
        cdef u128 cursor
        count = PyNumber_Index(count)
        if count < 0:
            raise ValueError(f"count {count} is negative")
        if self._busy:
            self._wait()
        if count > self.free:
            raise errors.PoolExhausted(
                f"{count} indices are wanted, {self.free} of {self.size} are free", wanted=count
            )
        lows = numpy.empty(count, dtype=numpy.uint64)
        if count == 0:
            return lows.astype(self._dtype())
        wanted = count
        low = data_of(lows)
        if self.size > 1 << 64:
            highs = numpy.empty(count, dtype=numpy.uint64)
            high = data_of(highs)
        # Check again: numpy.empty may have run other threads (a collection runs finalizers).
        self._wait()
        if count > self.free:
            raise errors.PoolExhausted(
                f"{count} indices are wanted, {self.free} of {self.size} are free", wanted=count
            )
        self._tell()
        cursor = self._cursor
        PyThread_acquire_lock(self._lock, WAIT_LOCK)
        self._busy = True
        try:
            with nogil:
                self._take(cursor, self._last, wanted, low, high, &got)
                if got < wanted and cursor > 0:
                    self._take(0, cursor - 1, wanted, low, high, &got)
        except BaseException:
            with nogil:
                while got:
                    got -= 1
                    self._clear(join(low, high, got))
            raise
        finally:
            self._busy = False
            PyThread_release_lock(self._lock)
        assert got == wanted, f"{got} of {wanted} indices found, though {self.free} are free"
        self._used += got
        cursor = join(low, high, got - 1)
        self._cursor = cursor + 1 if cursor != self._last else 0
        if high == NULL:
            return lows.view(self._dtype())
        return (highs.astype(object) << 64) | lows.astype(object)

    def _dtype(self):
        if self.size <= 1 << 63:
            return "int64"
        return "uint64" if self.size <= 1 << 64 else "object"

    def acquire(self, index):
        """Take this index and return whether it was free. O(1).

        The cursor stays. Raises IndexError when the index is outside.
        """
        cdef u128 position
        if not self._index(index, &position):
            raise IndexError(f"index {index} is outside 0..{self.size - 1}")
        self._tell()
        if self._set(position):
            self._used += 1
            return True
        return False

    def release(self, index):
        """Release this index and return whether it was taken. O(1).

        The cursor stays. Raises IndexError when the index is outside.
        """
        cdef u128 position
        if not self._index(index, &position):
            raise IndexError(f"index {index} is outside 0..{self.size - 1}")
        if self._untold != NULL:
            if self._untold.index == position >> PAGE_SHIFT:
                unmark(self._untold, <uint32_t>position & (PAGE_BITS - 1))
                self._untold = NULL
                self._used -= 1
                return True
            self._tell()
        if self._clear(position):
            self._used -= 1
            return True
        return False

    def next_free(self, start=0, stop=None):
        """Return the first free index in start..stop (stop excluded), or None. O(1). Read-only.

        Raises IndexError when the bounds are outside.
        """
        cdef u128 low, high, found
        if not self._bounds(start, stop, &low, &high):
            return None
        self._tell()
        if self._next_free(low, high, &found):
            return to_python(found)
        return None

    def count(self, lo=0, hi=None):
        """Return the number of taken indices in lo..hi (hi excluded).

        O(n), where n is the number of pages that the bounds span, or that exist, if those are
        fewer. Raises IndexError when the bounds are outside.
        """
        cdef u128 low, high
        if not self._bounds(lo, hi, &low, &high):
            return 0
        return to_python(self._count(low, high))

    def to_bytes(self, lo=0, hi=None):
        """Return the bits lo..hi (hi excluded) as bytes. Bit 0 of byte 0 is ``lo``; set is taken.

        ``numpy.unpackbits(numpy.frombuffer(bm.to_bytes(), "u1"), bitorder="little")`` makes an
        array of them. The last byte is padded with 0. O((hi - lo) / 8) time and bytes. Raises
        ValueError when ``lo`` is not a multiple of 8, IndexError when the bounds are outside.
        """
        cdef u128 low, high, base, index
        cdef Page* page
        cdef bytes result
        cdef uint8_t* out
        cdef uint8_t* words
        cdef u128 first, final
        if lo % 8:
            raise ValueError(f"lo {lo} is not a multiple of 8")
        if not self._bounds(lo, hi, &low, &high):
            return b""
        length = to_python(((high - low) >> 3) + 1)
        result = PyBytes_FromStringAndSize(NULL, length)
        out = <uint8_t*>PyBytes_AS_STRING(result)
        memset(out, 0, PyBytes_GET_SIZE(result))
        for number in self._page_indices(low, high):
            page = self._find(0, from_python(number))
            base = page.index << PAGE_SHIFT
            first = low if low > base else base
            final = base + (PAGE_BITS - 1)
            if high < final:
                final = high
            words = <uint8_t*>page.words + <size_t>((first - base) >> 3)
            memcpy(out + <size_t>((first - low) >> 3), words, <size_t>(((final - first) >> 3) + 1))
        if (high - low + 1) & 7:
            out[PyBytes_GET_SIZE(result) - 1] &= (1 << ((high - low + 1) & 7)) - 1
        return result

    def __iter__(self):
        """Iterate over the taken indices, ascending. O(pages + taken).

        An index that changes during the iteration may be included or not.
        """
        cdef Page* page
        cdef uint64_t bits
        cdef int word
        if self._busy:
            self._wait()
        for number in self._page_indices(0, self._last):
            if self._busy:  # another thread may have called allocate_many since the last yield
                self._wait()
            page = self._find(0, from_python(number))
            if page == NULL:
                continue
            base = number << PAGE_SHIFT
            taken = []
            for word in range(PAGE_WORDS):
                bits = page.words[word]
                while bits:
                    taken.append(base + (word << 6) + ctz(bits))
                    bits &= bits - 1
            yield from taken

    def __contains__(self, index):
        """Return whether the index is taken; False for an index outside. O(1)."""
        cdef u128 position
        return self._index(index, &position) == 1 and self._contains(position) == 1

    def __len__(self):
        """Return the size. ``len`` raises OverflowError from 2**63 on; ``size`` always works.

        ``list(bm)`` allocates memory for ``len(bm)`` items first; ``list(iter(bm))`` does not.
        """
        return self.size

    def __repr__(self):
        return f"<fastipam.Bitmap size={self.size} used={self.used}>"

    def __sizeof__(self):
        """Return the memory of the object, its table and its pages, in bytes."""
        return (
            object.__sizeof__(self)
            + (self._slot_mask + 1) * sizeof(Page*)
            + (self._page_count + self._spare_count) * sizeof(Page)
        )

    @property
    def used(self):
        """The number of taken indices. O(1)."""
        if self._busy:
            self._wait()
        return to_python(self._used)

    @property
    def free(self):
        """The number of free indices. O(1)."""
        return self.size - self.used

    @property
    def cursor(self):
        """The index at which the search of the next ``allocate`` begins."""
        if self._busy:
            self._wait()
        return to_python(self._cursor)

    @cursor.setter
    def cursor(self, index):
        cdef u128 position
        if not self._index(index, &position):
            raise IndexError(f"index {index} is outside 0..{self.size - 1}")
        self._cursor = position

    def _check(self):
        """Assert every invariant of the tree. O(pages)."""
        cdef size_t at
        if self._busy:
            self._wait()
        try:
            self._tell()
            self._verify()
            counted = self._count(0, self._last)
            assert counted == self._used, f"used is {self.used}, not {to_python(counted)}"
            assert self._cursor <= self._last, f"the cursor {self.cursor} is outside"
            for at in range(self._slot_mask + 1):
                if self._slots[at] != NULL:
                    assert (
                        self._slots[at].used or self._slots[at] == self._hot[self._slots[at].level]
                    ), "an empty page was kept"
                    if self._slots[at].level == 0:
                        assert self._slots[at].index <= self._last >> PAGE_SHIFT, "a page outside"
            assert sum(1 for _ in self) == self.used, "a taken index lies outside"
        except AssertionError as error:
            error.add_note(f"{self!r}: cursor {self.cursor}, {self._page_count} pages")
            raise


cdef uint64_t* data_of(object array) except NULL:
    """Return the address of a numpy array's items.

    A typed memoryview would make every import of this module import ``collections`` and more.
    """
    return <uint64_t*><size_t>array.__array_interface__["data"][0]


cdef inline u128 join(const uint64_t* low, const uint64_t* high, uint64_t at) noexcept nogil:
    cdef u128 value = low[at]
    if high != NULL:
        value |= <u128>high[at] << 64
    return value


@cython.final
cdef class StoredPages(_Tree):
    """The pages of one pool and family during one LMDB transaction.

    ``get(key, default, db)``, ``put(key, value, dupdata, overwrite, append, db)`` and
    ``delete(key, value, db)`` are methods of the transaction. A key is ``prefix``, the level
    (1 byte) and the page index (``index_bytes`` bytes, big-endian). A value is the page's 64 words,
    little-endian, 512 bytes. ``flush`` writes the changes to the transaction.

    Only one thread may use it, because a write transaction belongs to one thread.
    """

    def __cinit__(self, get, put, delete, db, bytes prefix, int index_bytes):
        self._get_value = get
        self._put_value = put
        self._delete_value = delete
        self._db = db
        self._prefix = prefix
        self._index_bytes = index_bytes
        if not 1 <= index_bytes <= 16:
            raise ValueError(f"index_bytes {index_bytes} is not within 1 and 16")

    def __init__(self, get, put, delete, db, prefix, index_bytes):
        pass

    cdef void bind(self, get, put, delete):
        """Use another transaction from now on, which must have the same pages."""
        self._get_value, self._put_value, self._delete_value = get, put, delete

    cdef bytes _key(self, uint32_t level, u128 index):
        cdef Py_ssize_t prefix_size = PyBytes_GET_SIZE(self._prefix)
        cdef bytes key = PyBytes_FromStringAndSize(NULL, prefix_size + 1 + self._index_bytes)
        cdef uint8_t* out = <uint8_t*>PyBytes_AS_STRING(key)
        cdef int at
        memcpy(out, PyBytes_AS_STRING(self._prefix), prefix_size)
        out[prefix_size] = level
        out += prefix_size + 1
        for at in range(self._index_bytes):
            out[self._index_bytes - 1 - at] = <uint8_t>index
            index >>= 8
        return key

    cdef int _load(self, uint32_t level, u128 index, Page** found) except -1 nogil:
        with gil:
            self._read(level, index, found)
        return 0

    cdef int _read(self, uint32_t level, u128 index, Page** found) except -1:
        cdef Page* page
        value = self._get_value(self._key(level, index), None, self._db)
        if value is None:
            found[0] = NULL
            return 0
        if not isinstance(value, bytes) or PyBytes_GET_SIZE(value) != PAGE_BYTES:
            raise errors.StoreCorrupt(
                f"page {to_python(index)} of level {level} is not {PAGE_BYTES} bytes long",
                hint="run `fastipam check`",
            )
        page = self._add(level, index)
        memcpy(page.words, PyBytes_AS_STRING(value), PAGE_BYTES)
        recount(page)
        page.stored = True
        found[0] = page
        return 0

    cdef void _emptied(self, Page* page) noexcept nogil:
        # The empty page stays in the table until flush() deletes it from the transaction, so that
        # its older state is not loaded again.
        pass

    # Changing bits. If there is a ``journal``, each change is appended to it for undo(), as
    # (pages, index, taken).

    cdef int take_next(self, u128 first, u128 last, u128* found) except -1:
        """Take the first free index from first to last; return 1 if there is one. O(levels)."""
        cdef Page* page
        if not self._next_free(first, last, found):
            return 0
        self._changed = 1
        self._get_or_add(0, found[0] >> PAGE_SHIFT, &page)
        self._put(page, <uint32_t>found[0] & (PAGE_BITS - 1))
        if self.journal is not None:
            self.journal.append((self, to_python(found[0]), True))
        return 1

    cdef int set_bit(self, u128 index) except -1:
        """Take this index; return 1 if it was free. O(levels)."""
        self._changed = 1
        if not self._set(index):
            return 0
        if self.journal is not None:
            self.journal.append((self, to_python(index), True))
        return 1

    cdef int clear_bit(self, u128 index) except -1:
        """Release this index; return 1 if it was taken. O(levels)."""
        self._changed = 1
        if not self._clear(index):
            return 0
        if self.journal is not None:
            self.journal.append((self, to_python(index), False))
        return 1

    cdef int take_many(
        self, u128 first, u128 last, uint64_t wanted, uint64_t* low, uint64_t* high, uint64_t* got
    ) except -1:
        """Take up to ``wanted`` free indices, as ``_take`` does. O(taken + full pages between)."""
        cdef uint64_t at
        self._changed = 1
        try:
            self._take(first, last, wanted, low, high, got)
        finally:
            if self.journal is not None:
                for at in range(got[0]):
                    self.journal.append((self, to_python(join(low, high, at)), True))
        return 0

    def undo(self, index, bint taken):
        """Undo a change from the journal, in which ``index`` was taken, or else released."""
        self._changed = 1
        if taken:
            self._clear(from_python(index))
        else:
            self._set(from_python(index))

    cpdef flush(self):
        """Write the changed pages to the transaction, and delete the empty ones from it.

        O(pages that the transaction has used) after a change, else O(1).
        """
        cdef size_t at
        cdef Page* page
        if not self._changed:
            return
        for at in range(self._slot_mask + 1):
            page = self._slots[at]
            if page == NULL or not page.dirty:
                continue
            key = self._key(page.level, page.index)
            if page.used:
                value = PyBytes_FromStringAndSize(<char*>page.words, PAGE_BYTES)
                self._put_value(key, value, True, True, False, self._db)
                page.stored = True
            elif page.stored:
                self._delete_value(key, b"", self._db)
                page.stored = False
            page.dirty = False
        self._changed = 0

    def next_free(self, first, last):
        """Return the first free index from first to last, both included, or None. O(levels)."""
        cdef u128 found
        if self._next_free(from_python(first), from_python(last), &found):
            return to_python(found)
        return None

    def take_first(self, first, last):
        """Take and return the first free index from first to last, or None. O(levels)."""
        cdef u128 found
        if self.take_next(from_python(first), from_python(last), &found):
            return to_python(found)
        return None

    def acquire(self, index):
        """Take this index and return whether it was free. O(levels)."""
        return self.set_bit(from_python(index)) == 1

    def release(self, index):
        """Release this index and return whether it was taken. O(levels)."""
        return self.clear_bit(from_python(index)) == 1

    def take(self, first, last, Py_ssize_t wanted):
        """Take up to ``wanted`` free indices in first..last, and return them as an ascending list.

        O(taken + full pages in between).
        """
        cdef u128 low_bound = from_python(first), high_bound = from_python(last)
        cdef uint64_t got = 0, at
        cdef uint64_t* low
        cdef uint64_t* high
        cdef list result
        if wanted <= 0:
            return []
        low = <uint64_t*>malloc(2 * <size_t>wanted * sizeof(uint64_t))
        if low == NULL:
            raise MemoryError
        high = low + wanted
        try:
            self.take_many(low_bound, high_bound, <uint64_t>wanted, low, high, &got)
            result = [to_python(join(low, high, at)) for at in range(got)]
        finally:
            free(low)
        return result

    def count(self, first, last):
        """Return the number of taken indices in first..last. O(pages that the bounds span)."""
        cdef u128 low = from_python(first), high = from_python(last), index
        cdef Page* page
        if low > high:
            return 0
        for index in range(low >> PAGE_SHIFT, (high >> PAGE_SHIFT) + 1):
            self._get(0, index, &page)
        return to_python(self._count(low, high))

    def __contains__(self, index):
        """Return whether the index is taken. O(1)."""
        return self._contains(from_python(index)) == 1

    def _check(self):
        """Assert that the loaded pages agree with each other and with the transaction's pages."""
        cdef size_t at
        cdef Page* page
        self._verify()
        for at in range(self._slot_mask + 1):
            page = self._slots[at]
            if page != NULL and not page.dirty:
                value = PyBytes_FromStringAndSize(<char*>page.words, PAGE_BYTES) if page.used else None
                found = self._get_value(self._key(page.level, page.index), None, self._db)
                assert found == value, f"page {to_python(page.index)} of level {page.level} is stale"


def page_bits(bytes page not None, base):
    """Return the set bits of one stored page as a list of indices ``base`` + bit. O(bits)."""
    cdef const uint64_t* words
    cdef uint64_t bits
    cdef int word
    cdef list found = []
    if PyBytes_GET_SIZE(page) != PAGE_BYTES:
        raise ValueError(f"a page has {PAGE_BYTES} bytes, not {PyBytes_GET_SIZE(page)}")
    words = <const uint64_t*>PyBytes_AS_STRING(page)
    for word in range(PAGE_WORDS):
        bits = words[word]
        while bits:
            found.append(base + (word << 6) + ctz(bits))
            bits &= bits - 1
    return found
