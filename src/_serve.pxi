# Serve plain requests, one behind the other, in the transaction of their batch.
#
# ``cni/plain.py`` makes a Plain for each command of a configuration that Python has served once. serve()
# finds it by the configuration's bytes. It stops at the first request that it does not serve, and
# Python serves that one, and has all the texts.

from libc.stdlib cimport free, malloc
from posix.stat cimport stat, struct_stat

cdef enum:
    _MOST_SETS = 8  # addresses of an answer; reader.MOST_SETS allows more
    _LONGEST_CIDR = 48  # characters: 39 of an IPv6 address, 4 of a length

# A range of a set: what the text of an address in it is followed by, and where its addresses end. They
# are in network byte order, so memcmp compares them.
cdef struct Reach:
    uint8_t low[16]
    uint8_t high[16]
    uint8_t length
    const char* behind
    size_t behind_size

cdef struct Address:
    int family
    uint8_t bytes[16]

cdef struct Set:
    int family
    int place  # of its address among those of the answer
    int count
    Reach* ranges


@cython.final
cdef class Results:
    """The results of ADDs of one configuration, which differ in their addresses.

    ``head`` is the text before the first address. ``sets`` has an entry for each range set: its
    family, the place of its address in the text, and its ranges: first and last address and prefix
    length, each with the text that follows an address of it.
    """

    cdef Set _sets[_MOST_SETS]
    cdef int _count
    cdef bytes _head
    cdef list _kept  # the texts that ``behind`` points into

    def __cinit__(self, bytes head not None, sets):
        cdef int at = 0, number
        self._head = head
        self._kept = []
        if not 0 < len(sets) <= _MOST_SETS:
            raise ValueError(f"{len(sets)} range sets are not 1 to {_MOST_SETS}")
        for family, place, ranges in sets:
            self._sets[at].family, self._sets[at].place = family, place
            self._sets[at].ranges = <Reach*>malloc(len(ranges) * sizeof(Reach))
            if self._sets[at].ranges == NULL:
                raise MemoryError
            self._count += 1
            for number, (low, high, length, behind) in enumerate(ranges):
                self._set_range(family, &self._sets[at].ranges[number], low, high, length, behind)
            self._sets[at].count = len(ranges)
            at += 1

    def __init__(self, head, sets):
        pass

    def __dealloc__(self):
        cdef int at
        for at in range(self._count):
            free(self._sets[at].ranges)

    cdef _set_range(self, int family, Reach* reach, low, high, int length, bytes behind):
        write_value(reach.low, family, low)
        write_value(reach.high, family, high)
        reach.length = length
        reach.behind = PyBytes_AS_STRING(behind)
        reach.behind_size = PyBytes_GET_SIZE(behind)
        self._kept.append(behind)

    cdef bytes encode(self, const Address* addresses):
        """Return the result for these addresses, one of each set; None if one is in no range."""
        cdef char texts[_MOST_SETS][_LONGEST_CIDR]
        cdef size_t sizes[_MOST_SETS]
        cdef Reach* reaches[_MOST_SETS]
        cdef size_t size = PyBytes_GET_SIZE(self._head)
        cdef Reach* reach
        cdef int at, place
        for at in range(self._count):
            reach = self._reach_of(at, &addresses[at])
            if reach == NULL:
                return None
            place = self._sets[at].place
            reaches[place] = reach
            sizes[place] = write_cidr(texts[place], &addresses[at], reach.length)
            size += sizes[place] + reach.behind_size
        cdef bytes result = PyBytes_FromStringAndSize(NULL, size)
        cdef char* out = PyBytes_AS_STRING(result)
        out = put(out, PyBytes_AS_STRING(self._head), PyBytes_GET_SIZE(self._head))
        for at in range(self._count):
            out = put(out, texts[at], sizes[at])
            out = put(out, reaches[at].behind, reaches[at].behind_size)
        return result

    cdef Reach* _reach_of(self, int which, const Address* address):
        """Return the first range that holds an address, as RangeSet.range_of does."""
        cdef Set* its_set = &self._sets[which]
        cdef int at
        if address.family == its_set.family:
            for at in range(its_set.count):
                if (
                    memcmp(its_set.ranges[at].low, address.bytes, 16) <= 0
                    and memcmp(address.bytes, its_set.ranges[at].high, 16) <= 0
                ):
                    return &its_set.ranges[at]
        return NULL

    def text(self, addresses):
        """Return what :meth:`encode` does, of (family, integer) pairs."""
        cdef Address found[_MOST_SETS]
        cdef int at = 0
        if len(addresses) != self._count:
            raise ValueError("each set has one address")
        for family, value in addresses:
            found[at].family = family
            write_value(found[at].bytes, family, value)
            at += 1
        return self.encode(found)


cdef int write_value(uint8_t* out, int family, value) except -1:
    """Write an address as bytes in network order, 16 of them. Raises OverflowError."""
    cdef bytes raw = value.to_bytes(4 if family == 4 else 16, "big")
    memset(out, 0, 16)
    memcpy(out, PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw))
    return 0


cdef inline char* put(char* out, const char* text, size_t size) noexcept nogil:
    memcpy(out, text, size)
    return out + size


# The text of an address (addresses.format_ip) ------------------------------------------------------

cdef size_t write_cidr(char* out, const Address* address, unsigned int length) noexcept nogil:
    """Write an address with its prefix length; return how many characters that is."""
    cdef char* at
    if address.family == 4:
        at = write_v4(out, address.bytes)
    else:
        at = write_v6(out, address.bytes)
    at[0] = c'/'
    return write_decimal(at + 1, length) - out


cdef char* write_decimal(char* out, unsigned int number) noexcept nogil:
    """Write a number below 1000."""
    if number >= 100:
        out[0] = c'0' + number // 100
        out += 1
    if number >= 10:
        out[0] = c'0' + number // 10 % 10
        out += 1
    out[0] = c'0' + number % 10
    return out + 1


cdef char* write_v4(char* out, const uint8_t* bytes) noexcept nogil:
    cdef int at
    for at in range(4):
        if at:
            out[0] = c'.'
            out += 1
        out = write_decimal(out, bytes[at])
    return out


cdef char* write_v6(char* out, const uint8_t* bytes) noexcept nogil:
    """Write eight groups, the first of the longest rows of zeros as "::" (RFC 5952, section 4.2)."""
    cdef unsigned int groups[8]
    cdef int at, end, zeros_at = 8, zeros = 1  # one group of zeros is not shortened
    for at in range(8):
        groups[at] = bytes[2 * at] << 8 | bytes[2 * at + 1]
    at = 0
    while at < 8:
        end = at
        while end < 8 and groups[end] == 0:
            end += 1
        if end - at > zeros:
            zeros_at, zeros = at, end - at
        at = end + 1
    at = 0
    while at < 8:
        if at == zeros_at:
            out = put(out, b"::", 2)
            at += zeros
            continue
        if at and at != zeros_at + zeros:
            out[0] = c':'
            out += 1
        out = write_hex(out, groups[at])
        at += 1
    return out


cdef char* write_hex(char* out, unsigned int group) noexcept nogil:
    cdef int shift = 12
    while shift and not group >> shift:
        shift -= 4
    while shift >= 0:
        out[0] = b"0123456789abcdef"[group >> shift & 15]
        out += 1
        shift -= 4
    return out


# Serving -------------------------------------------------------------------------------------------

@cython.final
cdef class Plain:
    """How serve() serves a command of a configuration.

    ``network`` assigns or releases; ``where`` are its data directory, durability and whether the
    store is made if there is none. ``results`` makes the answer of an ADD, and ``messages`` go with
    it. ``repeat`` is what an ADD does for an owner that has addresses. ``is_known`` says that a DEL
    need not look whether the store knows the network. With ``is_plain`` False nothing is served.
    """

    cdef readonly object network
    cdef readonly bint is_plain
    cdef object _results, _messages, _repeat, _where
    cdef bint _is_known

    def __cinit__(self, network, where, *, is_plain, results=None, messages=b"", repeat="", is_known=True):
        self.network, self.is_plain, self._where = network, is_plain, where
        self._results, self._messages, self._repeat = results, messages, repeat
        self._is_known = is_known


def serve(list frames not None, Py_ssize_t first, dict known not None, get, kind):
    """Serve the requests from ``first`` on, up to one that is not plain.

    ``frames`` are the requests of a batch. ``known`` has what was read of a configuration, by its
    bytes: ``adds`` and ``deletes`` are Plain, or None. ``get`` returns a store and has it join the
    batch. Return the answer of each that was served, and the set of stores that it has changed;
    ``kind`` is the type of an answer.
    """
    cdef Request request
    cdef bytes frame
    cdef object config = None
    cdef const char* input_at = NULL
    cdef size_t input_size = 0
    cdef uint64_t here = mount_namespace()
    cdef Plain plain
    cdef list done = []
    cdef dict stores = {}
    cdef Py_ssize_t at
    for at in range(first, len(frames)):
        frame = frames[at]
        if not read_request(PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame), &request):
            break
        if request.input.size != input_size or memcmp(request.input.at, input_at, input_size) != 0:
            config = known.get(as_bytes(request.input))
            input_at, input_size = request.input.at, request.input.size
        if config is None:
            break
        plain = config.adds if request.command == _ADD else config.deletes
        if plain is None or not plain.is_plain:
            break
        try:
            if plain not in stores:
                stores[plain] = {get(plain._where[0], plain._where[1], create=plain._where[2])}
            if plain.network.store not in stores[plain]:
                break
            output = _serve(plain, &request, here)
        except Exception:
            break
        if output is None:
            break
        done.append((kind(0, output, plain._messages), stores[plain]))
    return done


cdef object _serve(Plain plain, Request* request, uint64_t here):
    from fastipam.lease import Requester
    from fastipam.namespaces import Netns

    container, ifname = (<bytes>as_bytes(request.name)).decode().split("\0")
    if request.command == _DEL:
        freed = plain.network._release_raw(container, ifname)
        return b"" if freed or plain._is_known else None
    settle_mount(request, here)
    texts = (<bytes>as_bytes(request.texts)).decode().split("\0")
    netns = Netns(texts[2], request.inode, request.mount, request.born_ns)
    owner = Requester(container, ifname, netns, tuple(texts[3:]))
    lease = plain.network._assign(owner, (), plain._repeat)
    return plain._results.text([(one.family, one.value) for one in lease.siblings])


cdef uint64_t mount_namespace() noexcept nogil:
    """Return what namespaces.mount_namespace does."""
    cdef struct_stat status
    return 0 if stat(b"/proc/self/ns/mnt", &status) else status.st_ino


cdef void settle_mount(Request* request, uint64_t here) noexcept nogil:
    """Take this process's mount namespace where the path leads to the same file (identify)."""
    cdef struct_stat status
    if request.inode == 0 and request.device == 0 or request.mount == here:
        return
    # The frame has a NUL behind each variable.
    if stat(request.variables[_NETNS].at, &status):
        return
    if status.st_dev == request.device and status.st_ino == request.inode:
        request.mount = here
