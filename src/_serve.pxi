# Serve the plain requests of a batch in order, in the batch's transaction.
#
# When Python has served a configuration once, ``cni/plain.py`` makes a Plain for each of its
# commands. serve() finds it by the configuration's bytes. At the first request that is not plain
# serve() stops, and Python serves that request. All errors and messages are in Python, too.

from libc.stdlib cimport free, malloc

cdef enum:
    _MOST_SETS = 8  # range sets, and so addresses of a result; reader.MOST_SETS allows more
    _LONGEST_CIDR = 48  # characters: 39 of an IPv6 address, 4 of a length

# A range of a range set: its first and last address, and the text that follows an address of it in
# a result (``behind``). The addresses are in network byte order, so that memcmp compares them.
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
    int place  # the position of its address among the addresses of a result
    int count
    Reach* ranges


@cython.final
cdef class Results:
    """A template for the results of one configuration's ADDs, which differ only in the addresses.

    ``head`` is the text before the first address. ``sets`` has for each range set its family, the
    position of its address among the addresses of a result, and its ranges. A range is its first
    and last address, its prefix length, and the text that follows an address of it.
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
        """Return the result for these addresses, one for each set; None if one is in no range."""
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
        """Return the first range of a set that contains an address, or NULL (RangeSet.range_of)."""
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
        """Return the result of :meth:`encode` for (family, integer) pairs."""
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
    """Write an address into 16 bytes, in network byte order. Raises OverflowError."""
    cdef bytes raw = value.to_bytes(4 if family == 4 else 16, "big")
    memset(out, 0, 16)
    memcpy(out, PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw))
    return 0


cdef inline char* put(char* out, const char* text, size_t size) noexcept nogil:
    memcpy(out, text, size)
    return out + size


# The text of an address (addresses.format_ip) ------------------------------------------------------

cdef size_t write_cidr(char* out, const Address* address, unsigned int length) noexcept nogil:
    """Write an address with its prefix length; return the number of characters."""
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
    """Write an IPv6 address, its longest run of zero groups as "::" (RFC 5952, section 4.2).

    Of several longest runs it is the first.
    """
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
    """How serve() serves one command of a configuration.

    ``network`` assigns or releases the addresses. ``where`` is its data directory, its durability
    and whether to create a missing store. ``results`` makes the results of ADDs, and ``messages``
    go with them. ``released`` is the answer to every DEL. If not ``is_plain``, serve() never serves
    this command.
    """

    cdef readonly object network
    cdef readonly tuple where
    cdef readonly bint is_plain
    cdef Results _results
    cdef bytes _messages
    cdef object _released

    def __cinit__(
        self, network, tuple where, *, is_plain=True, Results results=None, bytes messages=b"",
        released=None,
    ):
        self.network, self.where, self.is_plain = network, where, is_plain
        self._results, self._messages, self._released = results, messages, released


@cython.final
cdef class _Place:
    """The accounts of a Plain's network in the transaction of its store's batch."""

    cdef Accounts accounts  # None: Python serves the network's requests
    cdef set stores  # the network's store, alone
    cdef tuple sets  # the range sets
    cdef list pages  # for each range set the bitmap of its family
    cdef int64_t size  # the number of addresses that can be assigned, at most 2**62

    cdef void enter(self, Plain plain, enter):
        """Get the accounts. Ignore any error: Python meets it again, and reports it."""
        try:
            self.accounts = enter(plain)
            self.stores = {plain.network.store}
            if self.accounts is not None and plain._results is not None:
                pool = plain.network.pool
                self.sets = pool.sets
                self.size = min(pool.size, <int64_t>1 << MOST_BITS)
                self.pages = [
                    self.accounts.txn.pages(self.accounts.pool_id, one.family) for one in self.sets
                ]
        except Exception:
            self.accounts = None


def serve(list frames not None, list answers not None, list touched not None, dict known not None, enter, kind):
    """Serve the requests that have no answer yet, in order, up to the first that is not plain.

    ``frames`` are the requests of a batch. ``answers`` gets the answer of each request that is
    served, a tuple of the type ``kind``, and ``touched`` the set of stores that it has changed.

    ``known`` finds a parsed configuration by its bytes, for a DEL without ``prevResult``; its
    ``adds`` and ``deletes`` are a Plain or None. ``enter(plain)`` makes the Plain's store join the
    batch, and returns the network's Accounts, or None if the call is not plain. O(requests).
    """
    cdef Request request
    cdef Text before, behind, last
    cdef bytes frame
    cdef object answer, config = None
    cdef uint64_t here = mount_namespace()
    cdef Plain plain
    cdef _Place place
    cdef dict places = {}
    cdef Py_ssize_t at
    last.at = NULL
    for at in range(len(answers), len(frames)):
        frame = frames[at]
        if not read_request(PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame), &request):
            return
        if request.command == _DEL and cut_result(request.input, &before, &behind):
            config = known.get(joined(before, behind))
            last.at = NULL
        elif not is_same(request.input, last):  # in a batch nearly all are the same
            config = known.get(as_bytes(request.input))
            last = request.input
        if config is None:
            return
        plain = config.adds if request.command == _ADD else config.deletes
        if plain is None or not plain.is_plain:
            return
        place = places.get(plain)
        if place is None:
            place = places[plain] = _Place.__new__(_Place)
            place.enter(plain, enter)
        if place.accounts is None:
            return
        settle_mount(&request, here)
        answer = serve_one(plain, place, &request, kind)
        if answer is None:
            return
        place.accounts.txn.note_plain()
        answers.append(answer)
        touched.append(place.stores)


cdef inline bint is_same(Text one, Text other) noexcept nogil:
    return other.at != NULL and one.size == other.size and memcmp(one.at, other.at, one.size) == 0


cdef object serve_one(Plain plain, _Place place, Request* request, kind):
    """Serve a request and return its answer. None: nothing was changed, Python has to serve it."""
    cdef Accounts accounts = place.accounts
    cdef bytes name = as_bytes(request.name)
    cdef bytes key = digest_key(accounts.network_id, name)
    cdef Address addresses[_MOST_SETS]
    cdef bint served
    try:
        entry = accounts.txn.look(OWNERS, key)
        if request.command == _DEL:
            return plain._released if release(accounts, name, key, entry) else None
        if entry is not None or accounts.state.reserved or accounts.state.kept:
            return None
        if len(place.sets) > 1:
            served = assign_in_part(plain, place, request, key, addresses)
        else:
            served = is_any_free(place) and assign_whole(plain, place, request, key, addresses)
        if not served:
            return None
        output = plain._results.encode(addresses)
        return PyTuple_Type.tp_new(<PyTypeObject*>kind, ((0, output, plain._messages, None),), NULL)
    except Exception:
        return None


cdef Py_ssize_t begin_part(Accounts accounts) except -1:
    """Begin a part of the transaction that changes a network whose accounts exist already.

    So the accounts' pool numbers and history are saved for undo here. Return where the part's undo
    notes begin.
    """
    cdef Transaction txn = accounts.txn
    cdef Py_ssize_t begun = txn.begin_part()
    try:
        txn._touch_state(accounts.state)
        if accounts._log is not None:
            txn._touch_log(accounts._log)
    except BaseException:
        txn.end_part(begun, False)
        raise
    return begun


# Assigning

cdef bint is_any_free(_Place place):
    """Return whether the only range set has a free address. If not, Python chooses another one."""
    cdef PoolState state = place.accounts.state
    return state.assigned + state.cooling + state.reserved - state.outside < place.size


cdef bint assign_whole(Plain plain, _Place place, Request* request, bytes key, Address* addresses) except -1:
    """Assign an address of the only range set, which has a free one, without a part.

    It needs no undo, because it fails only when records are damaged or a write fails. Then the
    whole batch is not committed, and Python serves each of its requests again.
    """
    try:
        return assign(plain, place, request, key, addresses)
    except BaseException as error:
        place.accounts.txn._failure = error
        raise


cdef bint assign_in_part(Plain plain, _Place place, Request* request, bytes key, Address* addresses) except -1:
    """Assign an address of each range set; return False, with nothing changed, if one is full."""
    cdef Accounts accounts = place.accounts
    cdef Py_ssize_t begun = begin_part(accounts)
    cdef bint served = False
    try:
        served = assign(plain, place, request, key, addresses)
    finally:
        accounts.txn.end_part(begun, served)
    return served


cdef bint assign(Plain plain, _Place place, Request* request, bytes key, Address* addresses) except -1:
    """Do what Accounts.give does for an owner without an address, but make no Lease object.

    Set ``addresses``. Return False, perhaps after changes, if a range set has no free address.
    """
    cdef Accounts accounts = place.accounts
    cdef bytes entry = b"", lease_key
    cdef int at
    cdef u128 value = 0
    accounts.tick()
    if accounts.state.cooling:
        accounts._expire_cooled(EXPIRED_BESIDE)
    for at in range(len(place.sets)):
        range_set = place.sets[at]
        if not accounts._take_next(<StoredPages>place.pages[at], at, range_set, &value):
            accounts.save()  # the addresses that were freed stay free
            return False
        addresses[at].family = range_set.family
        write_wide_address(addresses[at].bytes, addresses[at].family, value)
        accounts.state.set_cursor(at, addresses[at].family, value)
        lease_key = write_lease(plain, accounts, request, at, &addresses[at], value)
        entry = lease_key if at == 0 else entry + lease_key
    accounts.txn.write(OWNERS, key, entry, None)
    accounts.save()
    return True


cdef bytes write_lease(
    Plain plain, Accounts accounts, Request* request, int index, const Address* address, u128 value
):
    """Write the lease of an address of a set, and return its key."""
    cdef LeaseHead head
    cdef bytes lease_key = key_of(accounts.pool_id, address.family, value)
    cdef Reach* reach = plain._results._reach_of(index, address)
    if reach == NULL:
        raise LookupError(value)  # Python serves the request
    accounts._fill_head(&head)
    head.inode, head.born_ns = request.inode, request.born_ns
    head.mount_ns = <uint32_t>request.mount
    head.length = reach.length
    head.set_index = index
    accounts._put_lease(
        &head, as_bytes(request.texts), lease_key, address.family, value, _EVENT_ASSIGNED
    )
    return lease_key


cdef inline void write_wide_address(uint8_t* out, int family, u128 value) noexcept nogil:
    """Write an address into the first of 16 bytes."""
    memset(out, 0, 16)
    write_address(out, family, value)


# Releasing

cdef bint release(Accounts accounts, bytes name, bytes key, entry) except -1:
    """Release the addresses of an owner with this ``entry``; False: nothing was changed.

    ``entry`` is None for an owner without addresses. That is served, as a DEL of nothing, unless
    the container has an imported lease.
    """
    cdef Transaction txn = accounts.txn
    cdef bytes raw, lease_key
    if entry is None:
        # As in Release.make: an imported lease may name no interface, only the container.
        container = name[:name.index(0) + 1]
        return txn.look(OWNERS, digest_key(accounts.network_id, container)) is None
    lease_key = entry
    if accounts.state.kept or accounts._is_cut or not is_one_key(accounts.pool_id, lease_key):
        return release_in_part(accounts, name)
    found = txn.look(LEASES, lease_key)
    if found is None or not is_of_owner(found, name) or head_of(found).sticky_s:
        return release_in_part(accounts, name)
    raw = found
    try:
        release_one(accounts, key, lease_key, raw)
    except BaseException as error:
        txn._failure = error  # as in assign_whole
        raise
    return True


cdef int release_one(Accounts accounts, bytes key, bytes lease_key, bytes raw) except -1:
    """Do what Accounts.release does for an owner with one address that is not reserved."""
    cdef int family = bytes_of(lease_key)[ID_BYTES]
    value = to_python(read_address(bytes_of(lease_key) + ID_BYTES + 1, family))
    found = [(lease_key, raw, (family, value))]
    return accounts._release_found(key, lease_key, found, None, _EVENT_RELEASED)


cdef bint release_in_part(Accounts accounts, bytes name) except -1:
    """Release addresses in a part, because it may fail half-way.

    The owner has several addresses, a reserved or sticky one, or one in a block of a cluster.
    """
    cdef Py_ssize_t begun = begin_part(accounts)
    cdef bint served = False
    try:
        served = len(accounts.release(name)) > 0
    finally:
        accounts.txn.end_part(begun, served)
    return served


cdef uint64_t mount_namespace() noexcept nogil:
    """Return the inode of this process's mount namespace, or 0 (namespaces.mount_namespace)."""
    cdef uint64_t device, inode
    return 0 if fastipam_identify(b"/proc/self/ns/mnt", &device, &inode) else inode


cdef void settle_mount(Request* request, uint64_t here) noexcept nogil:
    """Set the request's mount namespace to this process's if the path leads to the same file here.

    So does namespaces.identify.
    """
    cdef uint64_t device, inode
    if request.command == _DEL or request.mount == here or not (request.inode or request.device):
        return
    # The path ends with a NUL: in a frame each variable does.
    if fastipam_identify(request.variables[_NETNS].at, &device, &inode):
        return
    if device == request.device and inode == request.inode:
        request.mount = here
