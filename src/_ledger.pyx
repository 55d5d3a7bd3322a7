# cython: language_level=3, embedsignature=False, auto_pickle=False, binding=False
"""The path of an assignment and of a release through a store, in native code.

Read it in this order, which is that of a call:

1. ``_transaction.pxi``, how a transaction begins and ends: the writer's lock, begin, commit;
2. the bytes of the records that each call reads and writes: leases, owners, events, counters;
3. ``Transaction``: databases, bitmaps and counters during one LMDB transaction, and how a call that
   fails is undone;
4. ``Call`` and ``perform``: a change in a transaction, together with those of threads that wait;
5. ``Accounts``: a network in a transaction. It finds the owner, frees addresses whose cool-down is
   over, chooses an address, assigns it, releases it, and records the event;
6. ``Assignment`` and ``Release``, the calls of the library, and their plain case.

The agent's part is in three more files: ``_accept.pxi`` takes a connection, ``_request.pxi`` reads a
request, and ``_serve.pxi`` serves the plain case of one.

Code that few calls need is in Python: a subclass of ``Accounts`` in ``fastipam.allocation``. The
methods that the subclass must define are at the beginning of ``Accounts``.

LMDB is used through py-lmdb's public methods. docs/store-format.md has every record.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_CheckExact, PyUnicode_FromObject
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy, memset
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from fastipam._bitmap cimport StoredPages, from_python, to_python, u128

import os
from time import time_ns

from fastipam import late_errors as errors

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL
    bint PyUnicode_IS_COMPACT_ASCII(object text)
    str PyUnicode_DecodeUTF8(const char* text, Py_ssize_t size, const char* errors)

cdef extern from "blake2b.h" nogil:
    void fastipam_digest(uint8_t* digest, const uint8_t* text, size_t size)

cdef extern from *:
    uint16_t swap16 "__builtin_bswap16"(uint16_t value) nogil
    uint32_t swap32 "__builtin_bswap32"(uint32_t value) nogil
    uint64_t swap64 "__builtin_bswap64"(uint64_t value) nogil

include "_transaction.pxi"


# The databases ----------------------------------------------------------------------------------

cdef enum:  # the place of each in ``databases``
    MAIN, META, NETWORKS, POOLS, PAGES, LEASES, OWNERS, COOLDOWN, EVENTS

# Their names, for storage/tables.py, which declares these first. The main one has no name.
PLACES = ("", "meta", "networks", "pools", "pages", "leases", "owners", "cooldown", "events")


# The bytes of records ---------------------------------------------------------------------------
#
# Numbers in keys are big-endian, so that LMDB's order is theirs, and those in values are
# little-endian, as this machine is. Texts are UTF-8, divided by NUL.

SCHEMA = 4  # of this layout; each network's entry begins with it. 1 to 3 were never released
cdef uint8_t _SCHEMA = SCHEMA

cdef enum:
    V4 = 4
    V6 = 6
    ID_BYTES = 4
    DIGEST_BYTES = 16
    LONGEST_KEY = 64
    NONE_SET = 65535  # the set number of a lease that no range set of its network has
    MOST_BITS = 62  # of a number that only grows

# The states of an address that has a lease record.
ASSIGNED = 1
COOLING = 2
# Kinds of events, beside 1: an assignment. storage/records/event.py has the others, and their words.
RELEASED = 2
GC = 3
REBOOTED = 5
OPERATOR = 6
IMPORTED = 9
NO_SET = NONE_SET
cdef int _ASSIGNED = 1, _COOLING = 2
cdef int _EVENT_ASSIGNED = 1, _EVENT_RELEASED = 2


cdef inline int address_bytes(int family) noexcept nogil:
    """Return how many bytes an address takes, or 0 when there is no such family."""
    return 4 if family == V4 else 16 if family == V6 else 0


cdef inline void write32(uint8_t* out, uint32_t value) noexcept nogil:
    value = swap32(value)
    memcpy(out, &value, 4)


cdef inline uint32_t read32(const uint8_t* at) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, at, 4)
    return swap32(value)


cdef inline void write64(uint8_t* out, uint64_t value) noexcept nogil:
    value = swap64(value)
    memcpy(out, &value, 8)


cdef inline uint64_t read64(const uint8_t* at) noexcept nogil:
    cdef uint64_t value
    memcpy(&value, at, 8)
    return swap64(value)


cdef inline void write_address(uint8_t* out, int family, u128 value) noexcept nogil:
    if family == V4:
        write32(out, <uint32_t>value)
    else:
        write64(out, <uint64_t>(value >> 64))
        write64(out + 8, <uint64_t>value)


cdef inline u128 read_address(const uint8_t* at, int family) noexcept nogil:
    if family == V4:
        return read32(at)
    return <u128>read64(at) << 64 | read64(at + 8)


cdef inline bytes to_bytes(const uint8_t* at, Py_ssize_t size):
    return PyBytes_FromStringAndSize(<const char*>at, size)


cdef inline const uint8_t* bytes_of(bytes raw) noexcept:
    return <const uint8_t*>PyBytes_AS_STRING(raw)


cdef bytes joined_bytes(const uint8_t* head, Py_ssize_t size, bytes rest):
    cdef Py_ssize_t more = PyBytes_GET_SIZE(rest)
    cdef bytes whole = PyBytes_FromStringAndSize(NULL, size + more)
    memcpy(PyBytes_AS_STRING(whole), head, size)
    memcpy(PyBytes_AS_STRING(whole) + size, PyBytes_AS_STRING(rest), more)
    return whole


cdef bytes prefix_of(uint32_t number):
    cdef uint8_t out[ID_BYTES]
    write32(out, number)
    return to_bytes(out, ID_BYTES)


def id_prefix(uint32_t number):
    """Return what every key of a pool, or of a network, begins with: its id."""
    return prefix_of(number)


cdef bytes main_key(char letter, uint32_t number):
    """Return the key of a pool's or a network's record in the main database."""
    cdef uint8_t out[1 + ID_BYTES]
    out[0] = letter
    write32(out + 1, number)
    return to_bytes(out, 1 + ID_BYTES)


cdef object not_an_address(int family, object value):
    return errors.StoreCorrupt(
        f"{value:#x} is not an IPv{family} address", hint=errors.CHECK_HINT
    )


# A lease. Its key: pool id, family, address.

cdef packed struct LeaseHead:
    uint8_t state
    uint8_t length
    uint16_t set_index
    uint32_t boot
    uint64_t generation
    uint64_t allocated_ns
    uint64_t released
    uint64_t inode
    uint32_t mount_ns
    uint32_t sticky_s
    uint64_t born_ns
    uint32_t network_id


cdef inline bytes key_of(uint32_t pool_id, int family, u128 value):
    cdef uint8_t out[LONGEST_KEY]
    write32(out, pool_id)
    out[ID_BYTES] = family
    write_address(out + ID_BYTES + 1, family, value)
    return to_bytes(out, ID_BYTES + 1 + address_bytes(family))


def address_key(uint32_t pool_id, int family, value):
    """Return the key of an address in ``leases``, ``reservations`` and ``missing``.

    Raises StoreCorrupt when the number is not an address of this family.
    """
    if value < 0 or value >> (8 * address_bytes(family)):
        raise not_an_address(family, value)
    return key_of(pool_id, family, from_python(value))


cdef inline const LeaseHead* head_of(bytes raw) except NULL:
    """Return the numbers of a lease's record. Raises StoreCorrupt when it is too short."""
    if PyBytes_GET_SIZE(raw) < <Py_ssize_t>sizeof(LeaseHead):
        raise errors.StoreCorrupt(f"a lease cannot be read: {raw.hex()}", hint=errors.CHECK_HINT)
    return <const LeaseHead*>bytes_of(raw)


cdef inline bytes lease_of(const LeaseHead* head, bytes texts):
    return joined_bytes(<const uint8_t*>head, sizeof(LeaseHead), texts)


def pack_lease(
    int state, int length, int set_index, boot, generation, allocated_ns, released, inode,
    mount_ns, sticky_s, born_ns, network_id, bytes texts not None,
):
    """Return the record of a lease. Raises OverflowError for a number that has no room in it."""
    cdef LeaseHead head
    head.state = state
    head.length = length
    head.set_index = set_index
    head.boot = boot
    head.generation = generation
    head.allocated_ns = allocated_ns
    head.released = released
    head.inode = inode
    head.mount_ns = mount_ns
    head.sticky_s = sticky_s
    head.born_ns = born_ns
    head.network_id = network_id
    return lease_of(&head, texts)


def read_lease(bytes raw not None):
    """Return the numbers of a lease's record in the order of :func:`pack_lease`, and its texts.

    Raises StoreCorrupt when the record is too short.
    """
    cdef const LeaseHead* head = head_of(raw)
    numbers = (
        head.state, head.length, head.set_index, head.boot, head.generation, head.allocated_ns,
        head.released, head.inode, head.mount_ns, head.sticky_s, head.born_ns, head.network_id,
    )
    return numbers, raw[sizeof(LeaseHead):]


def with_boot(bytes raw not None, uint32_t boot):
    """Return a lease's record with another boot. Raises StoreCorrupt."""
    cdef LeaseHead head
    memcpy(&head, head_of(raw), sizeof(LeaseHead))
    head.boot = boot
    return lease_of(&head, raw[sizeof(LeaseHead):])


def texts_of(bytes raw not None):
    """Return the texts of a lease's record."""
    head_of(raw)
    return raw[sizeof(LeaseHead):]


def is_assigned(bytes raw not None):
    """Return whether a lease's record is assigned."""
    return PyBytes_GET_SIZE(raw) > 0 and bytes_of(raw)[0] == _ASSIGNED


def generation_of(bytes raw not None):
    """Return the generation of a lease's record. Raises StoreCorrupt."""
    return head_of(raw).generation


def boot_of(bytes raw not None):
    """Return the number of the boot of a lease's record. Raises StoreCorrupt."""
    return head_of(raw).boot


def network_of(bytes raw not None):
    """Return the id of the network whose owner a lease's record names. Raises StoreCorrupt."""
    return head_of(raw).network_id


cdef bint is_of_owner(bytes raw, bytes name):
    """Return whether a lease's record is assigned to exactly this owner."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(name), at = sizeof(LeaseHead)
    return (
        PyBytes_GET_SIZE(raw) > at + size
        and bytes_of(raw)[0] == _ASSIGNED
        and memcmp(bytes_of(raw) + at, bytes_of(name), size) == 0
        and bytes_of(raw)[at + size] == 0
    )


def is_assigned_to(bytes raw not None, bytes name not None):
    """Return whether a lease's record is assigned to exactly this owner, by its name."""
    return is_of_owner(raw, name)


# An owner's entry: the keys of its leases, one behind the other. Its key: network id, digest.

cdef bytes digest_key(uint32_t network_id, bytes name):
    cdef uint8_t out[ID_BYTES + DIGEST_BYTES]
    write32(out, network_id)
    fastipam_digest(out + ID_BYTES, bytes_of(name), PyBytes_GET_SIZE(name))
    return to_bytes(out, ID_BYTES + DIGEST_BYTES)


def owner_key(bytes prefix not None, bytes name not None):
    """Return ``prefix`` and the digest of an owner's name.

    An LMDB key has at most 511 bytes and a container id has no limit. Among 2**40 owners, two
    collide in 16 bytes of BLAKE2b with a probability of 2**-49. A lease names its owner in full,
    and that is compared before an address is released.
    """
    cdef uint8_t out[DIGEST_BYTES]
    fastipam_digest(out, bytes_of(name), PyBytes_GET_SIZE(name))
    return prefix + to_bytes(out, DIGEST_BYTES)


def pack_held(uint32_t pool_id, addresses):
    """Return an owner's entry: the keys of its (family, integer) addresses in a pool."""
    return b"".join([address_key(pool_id, family, value) for family, value in addresses])


def read_held(bytes raw not None, uint32_t pool_id):
    """Return the (family, integer) pairs of :func:`pack_held`.

    Raises StoreCorrupt, also for an address of another pool.
    """
    cdef const uint8_t* at = bytes_of(raw)
    cdef const uint8_t* end = at + PyBytes_GET_SIZE(raw)
    cdef int size
    cdef list found = []
    while at < end:
        size = address_bytes(at[ID_BYTES]) if end - at > ID_BYTES else 0
        if not size or end - at < ID_BYTES + 1 + size:
            raise errors.StoreCorrupt(
                f"an owner's addresses cannot be read: {raw.hex()}", hint=errors.CHECK_HINT
            )
        if read32(at) != pool_id:
            raise errors.StoreCorrupt(
                f"an owner's address is of another pool than {pool_id}: {raw.hex()}",
                hint=errors.CHECK_HINT,
            )
        found.append((at[ID_BYTES], to_python(read_address(at + ID_BYTES + 1, at[ID_BYTES]))))
        at += ID_BYTES + 1 + size
    return found


cdef bint is_one_key(uint32_t pool_id, bytes entry) noexcept:
    """Return whether an owner's entry is the key of one lease of this pool."""
    cdef const uint8_t* at = bytes_of(entry)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(entry) - ID_BYTES - 1
    return size > 0 and address_bytes(at[ID_BYTES]) == size and read32(at) == pool_id


# A place in the cool-down queue, which has no value: pool id, set, released, family, address.

cdef enum:
    QUEUE_SET = ID_BYTES
    QUEUE_RELEASED = QUEUE_SET + 2
    QUEUE_FAMILY = QUEUE_RELEASED + 8
    QUEUE_ADDRESS = QUEUE_FAMILY + 1


cdef bytes queue_key(uint32_t pool_id, uint16_t index, uint64_t released, int family, u128 value):
    cdef uint8_t out[LONGEST_KEY]
    write32(out, pool_id)
    out[QUEUE_SET] = index >> 8
    out[QUEUE_SET + 1] = index & 255
    write64(out + QUEUE_RELEASED, released)
    out[QUEUE_FAMILY] = family
    write_address(out + QUEUE_ADDRESS, family, value)
    return to_bytes(out, QUEUE_ADDRESS + address_bytes(family))


def cooldown_key(uint32_t pool_id, uint16_t set_index, uint64_t released, int family, value):
    """Return the place of a cooling address in the queue of its range set, by release time."""
    return queue_key(pool_id, set_index, released, family, from_python(value))


def read_cooldown_key(bytes key not None):
    """Return (pool id, set index, released, family, address) of a :func:`cooldown_key`.

    Raises StoreCorrupt when it is none.
    """
    cdef const uint8_t* at = bytes_of(key)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(key) - QUEUE_ADDRESS
    if size <= 0 or size != address_bytes(at[QUEUE_FAMILY]):
        raise errors.StoreCorrupt(f"the cool-down queue has a key {key.hex()}", hint=errors.CHECK_HINT)
    return (
        read32(at), at[QUEUE_SET] << 8 | at[QUEUE_SET + 1], read64(at + QUEUE_RELEASED),
        at[QUEUE_FAMILY], to_python(read_address(at + QUEUE_ADDRESS, at[QUEUE_FAMILY])),
    )


# An event. Its key: network id, number.

cdef packed struct EventHead:
    uint64_t wall_ns
    uint8_t kind
    uint8_t family
    uint64_t generation


cdef bytes key_of_event(uint32_t network_id, uint64_t number):
    cdef uint8_t out[ID_BYTES + 8]
    write32(out, network_id)
    write64(out + ID_BYTES, number)
    return to_bytes(out, ID_BYTES + 8)


def event_key(uint32_t network_id, uint64_t number):
    """Return the key of an event, by its number."""
    return key_of_event(network_id, number)


cdef bytes event_of(
    uint64_t wall_ns, int kind, uint64_t generation, int family, u128 value,
    const uint8_t* texts, Py_ssize_t size,
):
    cdef EventHead head
    cdef int width = address_bytes(family)
    cdef bytes raw = PyBytes_FromStringAndSize(NULL, sizeof(EventHead) + width + size)
    cdef uint8_t* out = <uint8_t*>PyBytes_AS_STRING(raw)
    head.wall_ns = wall_ns
    head.kind = kind
    head.family = family
    head.generation = generation
    memcpy(out, &head, sizeof(EventHead))
    write_address(out + sizeof(EventHead), family, value)
    memcpy(out + sizeof(EventHead) + width, texts, size)
    return raw


def pack_event(wall_ns, int kind, generation, address, bytes texts not None):
    """Return the record of an event; ``texts`` are a lease's, ``address`` is (family, integer)."""
    return event_of(
        wall_ns, kind, generation, address[0], from_python(address[1]),
        bytes_of(texts), PyBytes_GET_SIZE(texts),
    )


def read_event(bytes raw not None):
    """Return (wall clock, kind, family, generation, address, texts) of an event's record.

    Raises ValueError when it cannot be one.
    """
    cdef const EventHead* head = <const EventHead*>bytes_of(raw)
    cdef Py_ssize_t at = sizeof(EventHead)
    cdef int width = 0
    if PyBytes_GET_SIZE(raw) >= at:
        width = address_bytes(head.family)
    if not width or PyBytes_GET_SIZE(raw) < at + width:
        raise ValueError(raw)
    value = to_python(read_address(bytes_of(raw) + at, head.family))
    return head.wall_ns, head.kind, head.family, head.generation, value, raw[at + width:]


cdef inline bint is_since(bytes raw, int64_t since_ns) noexcept:
    """Return whether an event's record is of this time or later; a damaged one is not."""
    return (
        PyBytes_GET_SIZE(raw) >= <Py_ssize_t>sizeof(EventHead)
        and (<int64_t>(<const EventHead*>bytes_of(raw)).wall_ns) >= since_ns
    )


def wall_ns_of(bytes raw not None):
    """Return the time of an event's record, or None when it is too short to be one."""
    if PyBytes_GET_SIZE(raw) < <Py_ssize_t>sizeof(EventHead):
        return None
    return (<const EventHead*>bytes_of(raw)).wall_ns


# Who owns an address ----------------------------------------------------------------------------

cdef enum:
    TEXTS = 6  # container id, interface, path of the namespace, pod's namespace, name and UID


def encode(str field, text):
    """Return the bytes of a text in the store.

    Raises ConfigError for half a surrogate pair, which JSON can spell.
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        message = f"{field} {text!r} cannot be encoded as UTF-8: {error}"
        raise errors.ConfigError(message, field=field, value=text) from None


cdef inline str exact(text):
    """Return a text as exactly a str: of a class derived from it, such as an Enum, what it holds."""
    return <str>PyUnicode_FromObject(text)


def owner_name(container_id, ifname):
    """Return the name of an owner: a lease's texts begin with it, and the owner's key hashes it."""
    name = f"{exact(container_id)}\0{exact(ifname)}"
    return name.encode() if name.isascii() else encode("container_id or ifname", name)


def check_owner(container_id, ifname):
    """Raise ConfigError when a record cannot hold the owner."""
    if is_plain(container_id) and is_plain(ifname) and container_id:
        return
    for field, text in (("container_id", container_id), ("ifname", ifname)):
        if not isinstance(text, str):
            raise errors.ConfigError(
                f"{field} must be a string, not {errors.shown(text)}", field=field, value=text
            )
        if "\0" in text:
            raise errors.ConfigError(f"{field} {text!r} contains NUL", field=field, value=text)
    if not container_id:
        raise errors.ConfigError("container_id is empty", field="container_id", value=container_id)


cdef inline bint is_plain(object text) noexcept:
    """Return whether a text is ASCII without NUL, as nearly all are."""
    cdef Py_ssize_t size
    cdef const char* at
    if not PyUnicode_CheckExact(text) or not PyUnicode_IS_COMPACT_ASCII(text):
        return False
    at = PyUnicode_AsUTF8AndSize(text, &size)
    return memchr(at, 0, size) == NULL


cdef bytes join_texts(tuple texts, Py_ssize_t* name_size):
    """Return plain texts divided by NUL; ``name_size`` are the bytes of the first two."""
    cdef Py_ssize_t size, total = len(texts) - 1
    cdef const char* at
    cdef char* out
    cdef int number = 0
    cdef bytes joined
    for text in texts:
        PyUnicode_AsUTF8AndSize(text, &size)
        total += size
    joined = PyBytes_FromStringAndSize(NULL, total)
    out = PyBytes_AS_STRING(joined)
    for text in texts:
        if number:
            out[0] = 0
            out += 1
        at = PyUnicode_AsUTF8AndSize(text, &size)
        memcpy(out, at, size)
        out += size
        number += 1
        if number == 2:
            name_size[0] = out - PyBytes_AS_STRING(joined)
    return joined


@cython.final
cdef class Requester:
    """Who requests an address, with what the lease records of the owner.

    ``netns`` is a :class:`fastipam.Netns`, or None: not known. ``pod_texts`` are the pod's
    Kubernetes namespace, its name and its UID. ``name`` is the :func:`owner_name`, ``texts`` are
    all texts of the lease's record. Raises ConfigError with the field.
    """

    cdef readonly object netns
    cdef readonly bytes name, texts
    cdef uint64_t _inode, _born_ns
    cdef uint32_t _mount_ns

    def __init__(self, container_id, ifname, netns=None, pod=("", "", "")):
        cdef Py_ssize_t name_size = 0
        path = "" if netns is None else netns.path
        texts = (container_id, ifname, path, *pod)
        self.netns = netns
        if netns is not None:
            self._inode, self._mount_ns, self._born_ns = netns.inode, netns.mount_ns, netns.born_ns
        for text in texts:
            if not is_plain(text):
                self._encode(texts)
                return
        if not container_id:
            check_owner(container_id, ifname)
        self.texts = join_texts(texts, &name_size)
        self.name = self.texts[:name_size]

    cdef int _encode(self, tuple texts) except -1:
        """Encode texts of which not all are plain."""
        check_owner(texts[0], texts[1])
        for field, text in zip(("netns", "pod_namespace", "pod_name", "pod_uid"), texts[2:]):
            if "\0" in text:
                raise errors.ConfigError(f"{field} contains NUL", field=field, value=text)
            encode(field, exact(text))
        self.name = owner_name(texts[0], texts[1])
        self.texts = b"\0".join([self.name, *[encode("pod", exact(text)) for text in texts[2:]]])
        return 0

    def _text(self, int number):
        return self.texts.split(b"\0")[number].decode("utf-8", "surrogateescape")

    @property
    def container_id(self):
        """The container id."""
        return self._text(0)

    @property
    def ifname(self):
        """The name of the interface."""
        return self._text(1)

    @property
    def pod_texts(self):
        """The pod's Kubernetes namespace, its name and its UID."""
        return self._text(3), self._text(4), self._text(5)

    @property
    def pod(self):
        """The pod as "namespace/name", or empty."""
        namespace, name, _ = self.pod_texts
        return f"{namespace}/{name}" if namespace and name else ""

    cdef void describe(self, LeaseHead* head) noexcept:
        """Write into a lease what it records of the owner in numbers."""
        head.inode = self._inode
        head.mount_ns = self._mount_ns
        head.born_ns = self._born_ns

    cdef bint has_pod(self):
        """Return whether the texts name a pod: its namespace and its name."""
        cdef const char* at = PyBytes_AS_STRING(self.texts) + PyBytes_GET_SIZE(self.name) + 1
        cdef const char* namespace = at + _length(at) + 1
        cdef const char* name = namespace + _length(namespace) + 1
        return namespace[0] != 0 and name[0] != 0


cdef inline Py_ssize_t _length(const char* text) noexcept nogil:
    cdef Py_ssize_t size = 0
    while text[size]:
        size += 1
    return size


@cython.freelist(64)
cdef class LeaseFields:
    """The fields of a :class:`fastipam.Lease`, which has the properties.

    ``_record`` is the lease's record, packed until one of its texts is wanted.
    """

    cdef readonly str network
    cdef readonly int family
    cdef readonly object value
    cdef readonly object _router
    cdef public object _record
    cdef public tuple _siblings  # not (self,): the garbage collector would look at every circle
    cdef public bint created

    def __init__(self, str network not None, int family, value not None, router, record not None):
        self.network = network
        self.family = family
        self.value = value
        self._router = router
        self._record = record
        self._siblings = ()
        self.created = isinstance(record, bytes)


# A pool's numbers -------------------------------------------------------------------------------
#
# In the main database, whose leaf is written with each commit anyway: ``P`` and the pool's id.

cdef packed struct PoolNumbers:
    uint64_t generation
    uint64_t assigned
    uint64_t cooling
    uint64_t reserved
    uint64_t outside
    uint64_t clock
    int64_t offset
    uint64_t kept
    uint32_t swept
    uint8_t sweep_family
    uint8_t sweep[16]

cdef packed struct Cursor:
    uint8_t family
    uint8_t address[16]


cdef inline void write_wide(uint8_t* out, u128 value) noexcept nogil:
    """Write an address of any family into 16 bytes."""
    write_address(out, V6, value)


cdef extern from *:
    """
    typedef __int128 fastipam_i128;
    """
    ctypedef long long i128 "fastipam_i128"  # never converted to or from Python, as u128


@cython.final
cdef class PoolState:
    """The numbers of a pool that change with every transaction, in one record.

    ``generation`` counts assignments. ``assigned``, ``cooling`` and ``reserved`` count addresses
    by state, ``outside`` those of them that the configured ranges do not (any longer) contain;
    ``kept`` counts reservations, also those whose address is assigned to their owner.
    ``swept`` is the boot whose predecessors' leases are all released, ``sweep`` how far the search
    for them has come: (family, address), or (0, 0) at its beginning.
    ``cursors`` holds, packed, family and address of the last automatic or requested assignment of
    each range set; family 0: none yet.

    ``clock`` is the pool's own clock, in nanoseconds: wall clock plus ``offset``, which grows
    when the wall clock steps back, so that it never does. Cool-down is measured on it: a step
    back freezes nothing, a step forward of n seconds ends a cool-down at most n seconds early.
    Any offset can be: what a wrong one gives is noticed, and put right, by :meth:`tick`.
    """

    cdef readonly uint32_t pool_id
    cdef readonly bytes prefix, key
    cdef public int64_t generation, assigned, cooling, reserved, outside, clock, offset, kept
    cdef public int64_t swept
    cdef public tuple sweep
    cdef public bytes cursors
    cdef bint _dirty, _is_stored
    cdef long _part  # the last part of the transaction that has used it
    cdef int64_t _quiet  # nothing in the cool-down queue was released before; 0: not known

    def __init__(self, uint32_t pool_id, raw=None):
        self.pool_id = pool_id
        self.prefix = prefix_of(pool_id)
        self.key = main_key(c"P", pool_id)
        self.sweep = (0, 0)
        self.cursors = b""
        if raw is not None:
            self._read(raw)

    cdef int _read(self, bytes raw) except -1:
        cdef const PoolNumbers* numbers = <const PoolNumbers*>bytes_of(raw)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(raw) - <Py_ssize_t>sizeof(PoolNumbers)
        if size < 0 or size % <Py_ssize_t>sizeof(Cursor):
            raise errors.StoreCorrupt(
                f"a pool's numbers cannot be read: {raw.hex()}", hint=errors.CHECK_HINT
            )
        if (numbers.generation | numbers.clock | numbers.assigned | numbers.cooling
                | numbers.reserved | numbers.outside | numbers.kept) >> MOST_BITS:
            raise errors.StoreCorrupt(
                f"a pool has an impossible number: {raw.hex()}", hint=errors.CHECK_HINT
            )
        self.generation = numbers.generation
        self.assigned = numbers.assigned
        self.cooling = numbers.cooling
        self.reserved = numbers.reserved
        self.outside = numbers.outside
        self.clock = numbers.clock
        self.offset = numbers.offset
        self.kept = numbers.kept
        self.swept = numbers.swept
        self.sweep = (0, 0)
        if numbers.sweep_family:
            self.sweep = numbers.sweep_family, to_python(read_address(numbers.sweep, V6))
        self.cursors = raw[sizeof(PoolNumbers):]
        self._is_stored = True
        self._quiet = 0  # when a part is taken back, what it has freed is in the queue again
        return 0

    cpdef bytes pack(self):
        """Return the value that the constructor reads. Raises StoreCorrupt for a wrong counter."""
        cdef PoolNumbers numbers
        if (self.generation | self.assigned | self.cooling | self.reserved | self.outside
                | self.clock | self.kept | self.swept) < 0 or self.swept >> 32:
            raise errors.StoreCorrupt(
                f"a pool's numbers cannot be written: generation "
                f"{self.generation}, assigned {self.assigned}, cooling {self.cooling}, reserved "
                f"{self.reserved}, outside {self.outside}, kept {self.kept}",
                hint=errors.CHECK_HINT,
            )
        numbers.generation = self.generation
        numbers.assigned = self.assigned
        numbers.cooling = self.cooling
        numbers.reserved = self.reserved
        numbers.outside = self.outside
        numbers.clock = self.clock
        numbers.offset = self.offset
        numbers.kept = self.kept
        numbers.swept = self.swept
        numbers.sweep_family = self.sweep[0]
        write_wide(numbers.sweep, from_python(self.sweep[1]))
        return joined_bytes(<const uint8_t*>&numbers, sizeof(PoolNumbers), self.cursors)

    @property
    def used(self):
        """Addresses whose bit is set."""
        return self.assigned + self.cooling + self.reserved

    cdef bint find_cursor(self, int set_index, int family, u128* value) noexcept:
        """Return whether a range set has a cursor, and set ``value`` to it."""
        cdef const Cursor* cursor = <const Cursor*>bytes_of(self.cursors)
        if (set_index + 1) * <Py_ssize_t>sizeof(Cursor) > PyBytes_GET_SIZE(self.cursors):
            return False
        cursor += set_index
        value[0] = read_address(cursor.address, V6)
        return cursor.family == family

    cdef int set_cursor(self, int set_index, int family, u128 value) except -1:
        cdef Py_ssize_t size = (set_index + 1) * sizeof(Cursor)
        cdef bytes before = self.cursors
        cdef Cursor* cursor
        if size < PyBytes_GET_SIZE(before):
            size = PyBytes_GET_SIZE(before)
        self.cursors = PyBytes_FromStringAndSize(NULL, size)
        memset(PyBytes_AS_STRING(self.cursors), 0, size)
        memcpy(PyBytes_AS_STRING(self.cursors), bytes_of(before), PyBytes_GET_SIZE(before))
        cursor = <Cursor*>PyBytes_AS_STRING(self.cursors) + set_index
        cursor.family = family
        write_wide(cursor.address, value)
        return 0

    def cursor(self, int set_index, int family):
        """Return the cursor of a range set, or None before its first assignment."""
        cdef u128 value = 0
        return to_python(value) if self.find_cursor(set_index, family, &value) else None

    def all_cursors(self):
        """Return (family, address) of each range set's cursor, None where there is none yet."""
        cdef Py_ssize_t at
        cdef u128 value = 0
        cdef list found = []
        for at in range(PyBytes_GET_SIZE(self.cursors) // <Py_ssize_t>sizeof(Cursor)):
            family = (<const Cursor*>bytes_of(self.cursors) + at).family
            known = family and self.find_cursor(at, family, &value)
            found.append((family, to_python(value)) if known else None)
        return found

    def move_cursor(self, int set_index, int family, value):
        """Let the next search of a range set begin behind ``value``."""
        self.set_cursor(set_index, family, from_python(value))

    cpdef int64_t tick(self, int64_t wall_ns) except? -1:
        """Advance the pool's clock to the wall clock's ``wall_ns`` and return it.

        No two calls give the same time: what is queued by it has an order even while the wall clock
        stands or steps back. It does not follow one that is decades ahead: it could not go back.
        """
        cdef i128 now = <i128>wall_ns + self.offset
        if now <= self.clock or now >> MOST_BITS:  # it has stepped, or the clock stands
            now = self.clock + 1
            self.offset = <int64_t>(now - wall_ns)
        self.clock = <int64_t>now
        return self.clock

    def has_stepped(self, int64_t wall_ns):
        """Return whether the wall clock has stepped too far for the pool's clock to follow."""
        cdef i128 now = <i128>wall_ns + self.offset
        return bool(now < self.clock or now >> MOST_BITS > 0)

    def at(self, int64_t wall_ns):
        """Return the pool's clock at the wall clock's ``wall_ns``, without advancing it."""
        return self.clock if self.has_stepped(wall_ns) else wall_ns + self.offset


# A network's history ----------------------------------------------------------------------------
#
# The newest events wait in the network's record in the main database: ``N`` and the network's id.

cdef enum:
    MOST_WAITING = 8
    MOST_BYTES = 1960  # of the record: LMDB keeps a longer one in pages of its own
    TRIM = 64  # how many of the oldest events are deleted at a time

# For the documents and the tests.
LEASE_BYTES = sizeof(LeaseHead)
POOL_BYTES = sizeof(PoolNumbers)
EVENTS_WAITING = MOST_WAITING
HISTORY_BYTES = MOST_BYTES

cdef packed struct LogNumbers:
    uint64_t following
    uint64_t first


cdef inline uint16_t length_at(const uint8_t* at) noexcept nogil:
    cdef uint16_t length
    memcpy(&length, at, 2)
    return length


cdef int count_packed(const uint8_t* at, Py_ssize_t size) noexcept nogil:
    """Return how many events there are, each behind its length, or -1 if the lengths are wrong."""
    cdef int count = 0
    cdef Py_ssize_t taken
    while size:
        taken = 2 + length_at(at) if size >= 2 else size + 1
        if taken > size:
            return -1
        at += taken
        size -= taken
        count += 1
    return count


@cython.final
cdef class EventLog:
    """The numbers of a network's events, and the newest events themselves.

    ``next`` is the number of the next event, ``first`` that of the oldest that is kept. ``waiting``
    are the records of those that are not in the table of events yet, the oldest first.
    """

    cdef readonly uint32_t network_id
    cdef readonly bytes prefix, key
    cdef public int64_t next, first
    cdef bytes _packed  # those that wait, each behind its length (2 bytes)
    cdef int _count
    cdef bint _dirty, _is_stored
    cdef long _part

    def __init__(self, uint32_t network_id, raw=None):
        self.network_id = network_id
        self.prefix = prefix_of(network_id)
        self.key = main_key(c"N", network_id)
        self._packed = b""
        if raw is not None:
            self._read(raw)

    cdef int _read(self, bytes raw) except -1:
        cdef const LogNumbers* numbers = <const LogNumbers*>bytes_of(raw)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(raw) - <Py_ssize_t>sizeof(LogNumbers)
        cdef int count = -1
        if 0 <= size <= MOST_BYTES - <Py_ssize_t>sizeof(LogNumbers):
            count = count_packed(bytes_of(raw) + sizeof(LogNumbers), size)
        if (count < 0 or (numbers.following | numbers.first) >> MOST_BITS
                or count > min(MOST_WAITING, <int64_t>numbers.following)):
            raise errors.StoreCorrupt(f"a network's history cannot be read: {raw.hex()}", hint=errors.CHECK_HINT)
        self.next = numbers.following
        self.first = numbers.first
        self._packed = raw[sizeof(LogNumbers):]
        self._count = count
        self._is_stored = True
        return 0

    cpdef bytes pack(self):
        """Return the value that the constructor reads. Raises StoreCorrupt for a wrong number."""
        cdef LogNumbers numbers
        if (self.next | self.first) < 0:
            raise errors.StoreCorrupt(
                f"the history of network {self.network_id} cannot be written: next event "
                f"{self.next}, oldest {self.first}",
                hint=errors.CHECK_HINT,
            )
        numbers.following = self.next
        numbers.first = self.first
        return joined_bytes(<const uint8_t*>&numbers, sizeof(LogNumbers), self._packed)

    cdef list _split(self):
        cdef const uint8_t* at = bytes_of(self._packed)
        cdef const uint8_t* end = at + PyBytes_GET_SIZE(self._packed)
        cdef list found = []
        while at < end:
            found.append(to_bytes(at + 2, length_at(at)))
            at += 2 + length_at(at)
        return found

    @property
    def waiting(self):
        """The records of the events that wait, the oldest first."""
        return self._split()

    @waiting.setter
    def waiting(self, events):
        self._packed = b""
        self._count = 0
        for event in events:
            self._add(event)

    cdef int _add(self, bytes event) except -1:
        cdef uint16_t length = PyBytes_GET_SIZE(event)
        cdef bytes grown = PyBytes_FromStringAndSize(NULL, PyBytes_GET_SIZE(self._packed) + 2 + length)
        cdef uint8_t* out = <uint8_t*>PyBytes_AS_STRING(grown)
        memcpy(out, bytes_of(self._packed), PyBytes_GET_SIZE(self._packed))
        out += PyBytes_GET_SIZE(self._packed)
        memcpy(out, &length, 2)
        memcpy(out + 2, bytes_of(event), length)
        self._packed = grown
        self._count += 1
        return 0

    cdef inline bint has_room(self, bytes event) noexcept:
        return (
            self._count < MOST_WAITING
            and <Py_ssize_t>sizeof(LogNumbers) + PyBytes_GET_SIZE(self._packed) + 2 + PyBytes_GET_SIZE(event)
            <= MOST_BYTES
        )

    cdef int append(self, Transaction txn, list events) except -1:
        """Add events. O(events) amortized: every ninth moves those that wait to their table."""
        cdef list moved = None
        for event in events:
            if not self.has_room(event):
                if moved is None:
                    moved = []
                moved += self.items()
                self._packed = b""
                self._count = 0
            if self.has_room(event):
                self._add(event)
            else:  # it is too long to wait at all
                moved.append((key_of_event(self.network_id, self.next), event))
            self.next += 1
        if moved is not None:
            txn.write_many(EVENTS, moved, None)
        return 0

    cdef int settle(self, Transaction txn) except -1:
        """Move the events that wait to their table."""
        txn.write_many(EVENTS, self.items(), None)
        self._packed = b""
        self._count = 0
        return 0

    cdef int trim(self, Transaction txn, int64_t history, int64_t oldest_ns, Py_ssize_t most) except -1:
        """Delete up to ``most`` of the oldest events: all but ``history``, and those before a time.

        A damaged event counts as one that is too old.
        """
        cdef int64_t oldest = self.next - history
        cdef uint64_t number
        cdef bytes key, raw
        cdef bint more
        cursor = txn.txn.cursor(txn.databases[EVENTS])
        try:
            more = cursor.set_range(event_key(self.network_id, self.first))
            while more and most:
                key, raw = cursor.item()
                if not key.startswith(self.prefix):
                    break
                number = read64(bytes_of(key) + ID_BYTES) if PyBytes_GET_SIZE(key) == 12 else 0
                if <int64_t>number >= oldest and is_since(raw, oldest_ns):
                    self.first = number
                    return 0
                more = txn.delete_under(EVENTS, cursor)
                most -= 1
                self.first = number + 1
        finally:
            cursor.close()
        return self._trim_waiting(oldest, oldest_ns) if most else 0

    cdef int _trim_waiting(self, int64_t oldest, int64_t oldest_ns) except -1:
        """Drop the waiting events that are too old: the table has none any more."""
        cdef list waiting = self.waiting
        self.first = self.next - self._count
        while waiting and (self.first < oldest or not is_since(waiting[0], oldest_ns)):
            del waiting[0]
            self.first += 1
        if len(waiting) < self._count:
            self.waiting = waiting
        return 0

    cpdef list items(self):
        """Return the (key, value) pairs that the table will have for what waits here."""
        cdef int64_t number = self.next - self._count
        cdef Py_ssize_t at
        cdef list found = self._split()
        for at in range(len(found)):
            found[at] = key_of_event(self.network_id, number + at), found[at]
        return found


# A write transaction ----------------------------------------------------------------------------

cdef object UNKNOWN = object()  # what stands for a value that has to be read before it is changed


cdef int settle(tuple promises) except -1:
    """Raise the error of a promise that cannot be kept, after all were looked at."""
    first = None
    for one in promises:
        error = one.settle()
        first = first or error
    if first is not None:
        raise first
    return 0


cdef class Transaction(WriteBlock):
    """One write transaction of a store; use it with ``with``.

    Bitmaps and numbers are kept in memory until it ends. Whoever reads them by other means has to
    call :meth:`flush` first.

    A call that shares the transaction with others is a :class:`Part` of it: it notes in memory what
    it changes, and what a part has changed is taken back when it fails. Only a write that failed
    (no room, a broken disk) cannot be taken back: then ``failed`` is set, no later call is served,
    and the end of the transaction raises the error instead of a commit.

    A ``joined`` one is a batch: whatever its thread does in the store is a part of it. Otherwise
    only the calls of a view (``storage/within.py``) are.

    ``promises`` are those of a fenced cluster (``network/promise.py``): the end of the transaction
    settles them after the commit, and raises the error of one that cannot be kept.
    """

    cdef public tuple promises
    cdef readonly bint joined
    cdef dict _pages, _pools, _logs
    cdef dict _found  # by a network's encoded name, what its entry and its pool's say
    cdef dict _policies  # by a network's id, the record of the policy that the store has
    cdef list _notes  # of the open parts, how to take back each change; None before the first part
    cdef int _parts  # how many are open, one inside the other
    cdef long _serial  # differs for each part
    cdef long _flushes  # what was written since a note has to be written again, as it was before
    cdef bint _lost_track  # a part has made a change without a note
    cdef object _failure

    def __init__(self, store, bint joined=False):
        self.store = store
        self.joined = joined
        self.promises = ()
        self._pages, self._pools, self._logs, self._found, self._policies = {}, {}, {}, {}, {}

    @property
    def failed(self):
        """Whether a write has failed, so that nothing of the transaction can be committed."""
        return self._failure is not None

    def require_open(self):
        """Raise an error when a call inside may not go on."""

    def require_mine(self):
        """Raise the error for a call that may not use it: it is over, or another thread's."""
        # In another thread ``transaction`` is that thread's.
        mine = getattr(self.store.local, "transaction", None)
        if mine is not self or self._end_if_left():
            self.store.open_files()  # in a forked child that is the better reason
            raise self.store.transaction_is_over()
        self.require_open()

    def rollback(self):
        """Roll the transaction back, outside a ``with`` block."""
        self.__exit__(Exception, None, None)

    cdef int finish(self) except -1:
        return settle(self.promises)

    # Reading and writing. ``at`` is the place of a database, ``before`` the value that a key has.

    cdef inline object look(self, int at, bytes key):
        """Return the value of a key, or None."""
        return self.get(key, None, self.databases[at])

    cdef int write(self, int at, bytes key, bytes value, before) except -1:
        """Write a value, in place of an older one."""
        if self._parts:
            self._note(at, key, before)
        try:
            self.put(key, value, True, True, False, self.databases[at])
        except BaseException as error:
            self._failure = error
            raise
        return 0

    cdef int erase(self, int at, bytes key, before) except -1:
        """Delete a key: 1 if it was there."""
        if self._parts:
            self._note(at, key, before)
        try:
            return self.delete(key, b"", self.databases[at])
        except BaseException as error:
            self._failure = error
            raise

    cdef int _note(self, int at, bytes key, before) except -1:
        if before is UNKNOWN:
            before = self.look(at, key)
        self._notes.append((at, key, before))
        return 0

    def put_in(self, int at, bytes key not None, bytes value not None):
        """Write a value, in place of an older one."""
        self.write(at, key, value, UNKNOWN)

    def add_to(self, int at, bytes key not None, bytes value not None):
        """Write a value unless the key has one; return whether it was written."""
        return self.add(at, key, value) == 1

    cdef int add(self, int at, bytes key, bytes value) except -1:
        """Write a value unless the key has one: 1 if it was written."""
        cdef bint new
        try:
            new = self.put(key, value, True, False, False, self.databases[at])
        except BaseException as error:
            self._failure = error
            raise
        if new and self._parts:
            self._notes.append((at, key, None))
        return new

    def add_many_to(self, int at, items):
        """Write the values of those keys that have none; return (keys given, values written)."""
        cdef Py_ssize_t given = 0, new = 0
        if self._parts:
            for key, value in items:
                given += 1
                new += self.add(at, key, value)
            return given, new
        try:
            with self.txn.cursor(self.databases[at]) as cursor:
                return cursor.putmulti(items, overwrite=False)
        except BaseException as error:
            self._failure = error
            raise

    cdef list look_many(self, int at, list keys):
        """Return (key, value) of those keys that have one. In their order, which is faster sorted."""
        with self.txn.cursor(self.databases[at]) as cursor:
            return cursor.getmulti(keys)

    cdef bytes take(self, int at, bytes key, cursor):
        """Delete a key, by a cursor of its database; return the value that it had, or None."""
        try:
            value = cursor.pop(key)
        except BaseException as error:
            self._failure = error
            raise
        if self._parts and value is not None:
            self._notes.append((at, key, value))
        return value

    cdef int write_many(self, int at, list items, list before) except -1:
        """Write (key, value) pairs; ``before`` has the pairs that they replace, or is None."""
        if self._parts:
            for key, value in items if before is None else before:
                self._notes.append((at, key, None if before is None else value))
        try:
            with self.txn.cursor(self.databases[at]) as cursor:
                cursor.putmulti(items)
        except BaseException as error:
            self._failure = error
            raise
        return 0

    def delete_from(self, int at, bytes key not None):
        """Delete a key; return whether it was there."""
        return self.erase(at, key, UNKNOWN) == 1

    cpdef bint delete_under(self, int at, cursor) except -1:
        """Delete the key that a cursor is at, and go to the next; return whether there is one."""
        if self._parts:
            self._notes.append((at, *cursor.item()))
        try:
            return cursor.delete()
        except BaseException as error:
            self._failure = error
            raise

    def clear_all(self, int at):
        """Delete every key of a database. O(its pages)."""
        self._lost_track = self._parts > 0
        self.txn.drop(self.databases[at], delete=False)

    # What is kept in memory -----------------------------------------------------------------------

    cpdef StoredPages pages(self, uint32_t pool_id, int family):
        """Return the bitmap of a pool and family, as this transaction sees it."""
        cdef object found = self._pages.get((pool_id, family))
        if found is None:
            found = StoredPages(
                self.get, self.put, self.delete, self.databases[PAGES],
                family_prefix(pool_id, family), address_bytes(family),
            )
            (<StoredPages>found).journal = self._notes
            self._pages[pool_id, family] = found
        return found

    def forget_pages(self, uint32_t pool_id):
        """Forget the bitmaps of a pool, after they were changed by other means."""
        for key in [key for key in self._pages if key[0] == pool_id]:
            del self._pages[key]

    cpdef PoolState pool_state(self, uint32_t pool_id):
        """Return the numbers of a pool: one object in the whole transaction."""
        cdef PoolState state = self._pools.get(pool_id)
        if state is None:
            state = self._pools[pool_id] = read_pool_state(self.get, self.databases, pool_id)
        self._touch_state(state)
        return state

    cpdef EventLog event_log(self, uint32_t network_id):
        """Return the history of a network: one object in the whole transaction."""
        cdef EventLog log = self._logs.get(network_id)
        if log is None:
            log = self._logs[network_id] = read_event_log(self.get, self.databases, network_id)
        self._touch_log(log)
        return log

    cdef inline int _touch_state(self, PoolState state) except -1:
        """Note the numbers as they are before this part."""
        if self._parts and state._part != self._serial:
            state._part = self._serial
            packed = state.pack() if state._is_stored else None
            self._notes.append((state, packed, state._dirty, self._flushes))
        return 0

    cdef inline int _touch_log(self, EventLog log) except -1:
        if self._parts and log._part != self._serial:
            log._part = self._serial
            packed = log.pack() if log._is_stored else None
            self._notes.append((log, packed, log._dirty, self._flushes))
        return 0

    cpdef object find(self, bytes key):
        """Return what :func:`find` returns; a network's entry is read once."""
        found = self._found.get(key)
        if found is None:
            found = find(self, key)
            if type(found) is tuple:
                self._found[key] = found
        return found

    cdef object policy_of(self, uint32_t network_id):
        """Return the record of a network's policy, as the store has it; it is read once."""
        cdef uint8_t key[7 + ID_BYTES]
        found = self._policies.get(network_id)
        if found is None:
            memcpy(key, b"policy ", 7)
            write32(key + 7, network_id)
            found = self._policies[network_id] = self.look(META, to_bytes(key, 7 + ID_BYTES))
        return found

    def forget_found(self):
        """Forget the entries and the policies of networks: one of them is changed."""
        self._found.clear()
        self._policies.clear()

    def save(self, kept):
        """Have the numbers of a pool, or a network's history, written with the next flush."""
        if isinstance(kept, PoolState):
            (<PoolState>kept)._dirty = (<PoolState>kept)._is_stored = True
        else:
            (<EventLog?>kept)._dirty = (<EventLog>kept)._is_stored = True

    def forget(self, kept):
        """Delete the numbers of a pool, or a network's history."""
        if isinstance(kept, PoolState):
            self._pools.pop(kept.pool_id, None)
            self.erase(MAIN, kept.key, UNKNOWN)
        else:
            self._logs.pop(kept.network_id, None)
            self.erase(MAIN, kept.key, UNKNOWN)

    cpdef flush(self):
        """Write what has changed and is not in the transaction yet: bitmaps, numbers, histories."""
        cdef PoolState state
        cdef EventLog log
        if self._failure is not None:
            raise self._failure
        self._flushes += 1
        try:
            for pages in self._pages.values():
                (<StoredPages>pages).flush()
            for state in self._pools.values():
                if state._dirty:
                    self.put(state.key, state.pack(), True, True, False, self.databases[MAIN])
                    state._dirty = False
            for log in self._logs.values():
                if log._dirty:
                    self.put(log.key, log.pack(), True, True, False, self.databases[MAIN])
                    log._dirty = False
        except BaseException as error:
            self._failure = error
            raise

    def _check(self):
        """Assert that what is kept in memory is what the transaction has. O(what is kept + queues).

        A clock may be ahead: a call that has nothing to do reads the time, and does not save it.
        """
        cdef PoolState state
        cdef EventLog log
        self.flush()
        assert self._parts >= 0, f"{self._parts} parts are open"
        assert not self._notes or self._parts, f"{len(self._notes)} notes of no part"
        for pages in self._pages.values():
            (<StoredPages>pages)._check()
        for state in self._pools.values():
            stored = PoolState(state.pool_id, self.look(MAIN, state.key))
            assert state.clock >= stored.clock, f"the clock of pool {state.pool_id} was set back"
            stored.clock, stored.offset = state.clock, state.offset
            assert state.pack() == stored.pack(), f"numbers of pool {state.pool_id} were not saved"
            with self.txn.cursor(self.databases[COOLDOWN]) as cursor:
                cursor.set_range(state.prefix)
                for key in cursor.iternext(keys=True, values=False):
                    if not key.startswith(state.prefix):
                        break
                    _, _, released, *_ = read_cooldown_key(key)
                    assert released >= state._quiet, f"{key.hex()} is due, and no call would see it"
        for log in self._logs.values():
            stored = EventLog(log.network_id, self.look(MAIN, log.key))
            assert log.pack() == stored.pack(), f"events of network {log.network_id} were not saved"
        for key, found in self._found.items():
            assert find(self, key) == found, f"the entry of {key} is stale"
        for number, packed in list(self._policies.items()):
            del self._policies[number]
            assert self.policy_of(number) == packed, f"the policy of network {number} is stale"

    cdef void note_brief(self) noexcept:
        """Note that all of it is one call, whose files need no second look unless it takes long."""
        self._is_brief = self._notes is None

    # Parts ----------------------------------------------------------------------------------------

    cdef Py_ssize_t begin_part(self) except -1:
        """Begin a part; return what its end has to be told."""
        if fastipam_lock_is_forked(self._files.lock._lock):
            self.store.open_files()  # raises: the transaction is the parent's
        if self._failure is not None:
            raise self.store.fault(self._failure)
        if self._notes is None:
            self._notes = []
            for pages in self._pages.values():
                (<StoredPages>pages).journal = self._notes
        elif not self._parts:
            self._lost_track = False
        self._parts += 1
        self._serial += 1
        self._is_brief = False
        return len(self._notes)

    cdef int end_part(self, Py_ssize_t begun, bint well) except -1:
        """End a part; unless it went well, take back what it has changed."""
        cdef list undone
        self._serial += 1
        if not well and self._failure is None:
            self.forget_found()
            undone = self._notes[begun:]
            del self._notes[begun:]
            try:
                if self._lost_track:
                    raise errors.StoreCorrupt("a call failed and cannot be undone")
                while undone:
                    self._take_back(undone.pop())
            except BaseException as error:
                self._failure = error
        self._parts -= 1
        if not self._parts:
            self._notes.clear()  # also because bitmaps refer to the list, and the list to them
        return 0

    cdef int _take_back(self, tuple note) except -1:
        cdef object kept = note[0]
        if isinstance(kept, StoredPages):
            kept.undo(note[1], note[2])
        elif isinstance(kept, PoolState):
            if note[1] is None:
                self._forget_new(self._pools, kept.pool_id, kept.key)
            else:
                (<PoolState>kept)._read(note[1])
                (<PoolState>kept)._dirty = note[2] or note[3] != self._flushes
        elif isinstance(kept, EventLog):
            if note[1] is None:
                self._forget_new(self._logs, kept.network_id, kept.key)
            else:
                (<EventLog>kept)._read(note[1])
                (<EventLog>kept)._dirty = note[2] or note[3] != self._flushes
        elif note[2] is None:
            self.delete(note[1], b"", self.databases[<int>kept])
        else:
            self.put(note[1], note[2], True, True, False, self.databases[<int>kept])
        return 0

    cdef int _forget_new(self, dict known, uint32_t number, bytes key) except -1:
        """Forget what a part has made, also what a flush meanwhile has written of it."""
        known.pop(number, None)
        self.delete(key, b"", self.databases[MAIN])
        return 0


@cython.final
cdef class Part:
    """A call inside a transaction: what it has changed is taken back when it fails."""

    cdef Transaction _whole
    cdef Py_ssize_t _begun
    cdef tuple _promises

    def __cinit__(self, Transaction whole not None):
        self._whole = whole

    cdef int begin(self) except -1:
        self._begun = self._whole.begin_part()
        self._promises = self._whole.promises
        return 0

    cdef int end(self, error) except -1:
        """End it; ``error`` is what it raises, or None."""
        cdef Transaction whole = self._whole
        if error is not None:
            whole.promises = self._promises
        whole.end_part(self._begun, error is None)
        if error is not None:
            fault = whole.store.fault(error)
            if fault is not error:
                raise fault from error
        return 0

    def __enter__(self):
        self.begin()
        return self._whole

    def __exit__(self, kind, error, trace):
        self.end(error)


# A call, which may be made by another thread ----------------------------------------------------
#
# In a durable store a commit costs a sync, however many calls are in it. So a call whose thread has
# to wait for another thread of this process is made by that one: after its own call, and before its
# commit, it makes the calls of those who wait, in their order, each as a part. A thread is answered
# after the commit. It gets nothing from there but a result: a call that has failed, or whose
# commit has failed, is made again by its own thread, alone, and the error is its own.

cdef enum:
    MOST_GUESTS = 64
    GUESTS_NS = 5_000_000  # no further one is taken in later: others wait for the commit


cdef class Call:
    """What is to be done in a transaction, of which a subclass says what it is."""

    cdef object _result  # what came of it in another thread's transaction,
    cdef tuple _promises  # and what was promised there

    cpdef make(self, txn):
        """Do it in a transaction, and return what it comes to.

        It may be made several times, and only the last time counts: all that it changes has to be
        in the transaction. It changes nothing if it raises. It has to be short.
        """
        raise NotImplementedError

    def make_part(self, Transaction whole not None):
        """Make it as a part of a transaction."""
        cdef Part part = Part(whole)
        part.begin()
        try:
            result = self.make(whole)
        except BaseException as error:
            part.end(error)
            raise
        part.end(None)
        return result

    cdef int make_as_guest(self, Transaction txn) except -1:
        """Make it as a part of another thread's transaction. What it promises is its own."""
        cdef tuple before = txn.promises
        txn.promises = ()
        try:
            self._result = self.make_part(txn)
            self._promises = txn.promises
        finally:
            txn.promises = before
        return 0


cdef int serve_others(Transaction txn) except -1:
    """Make the calls of threads that wait for the lock. Raises only what no call can raise."""
    cdef fastipam_lock* lock = txn._files.lock._lock
    cdef fastipam_waiter* waiter
    cdef int64_t end_ns = 0
    while txn._guests < MOST_GUESTS and txn._failure is None:
        waiter = fastipam_lock_claim(lock)
        if waiter == NULL:
            break
        txn._guests += 1
        if not end_ns:
            end_ns = fastipam_monotonic_ns() + GUESTS_NS
        try:
            (<Call>waiter.call).make_as_guest(txn)
            waiter.done = True
        except Exception:
            pass  # its thread makes it again
        if fastipam_monotonic_ns() > end_ns:
            break
    return 0


def perform(store, kind, bint shares, Call call not None):
    """Return what a call returns, after the commit.

    ``kind(store)`` makes the transaction. In a thread whose calls are a batch it is that one's. If
    it ``shares`` its commit, another thread of this process may make the call. Raises what the call
    and a transaction raise.
    """
    # No handler of a signal runs between two lines of this: what has begun is ended.
    cdef Transaction txn
    before = getattr(store.local, "transaction", None)
    if before is not None and (<Transaction?>before).joined:
        return call.make_part(before)
    while True:
        txn = kind(store)
        if shares:
            txn._call = call
        if txn.__enter__() is None:
            break
        try:
            result = call.make(txn)
            # Handlers run in the main thread. What they raise must not get lost in another's call.
            if shares and not fastipam_is_main_thread(txn._thread):
                serve_others(txn)
        except BaseException as error:
            txn.__exit__(type(error), error, None)
            raise
        try:
            txn.__exit__(None, None, None)
        except Exception:
            if txn._committed or not txn._guests:
                raise
            shares = False  # again, alone: it may be a guest's fault
            continue
        return result
    settle(call._promises)
    return call._result


# What a write transaction and a snapshot read alike.

def pages_of(block, uint32_t pool_id, int family):
    """Return the bitmap of a pool and family in a snapshot, to be read and not changed."""
    database = block.databases[PAGES]
    prefix = family_prefix(pool_id, family)
    return StoredPages(block.get, None, None, database, prefix, address_bytes(family))


cdef bytes family_prefix(uint32_t pool_id, int family):
    """Return what the key of every page of a family begins with."""
    cdef uint8_t out[ID_BYTES + 1]
    write32(out, pool_id)
    out[ID_BYTES] = family
    return to_bytes(out, ID_BYTES + 1)


cdef PoolState read_pool_state(get, tuple databases, uint32_t pool_id):
    return PoolState(pool_id, get(main_key(c"P", pool_id), None, databases[MAIN]))


cdef EventLog read_event_log(get, tuple databases, uint32_t network_id):
    return EventLog(network_id, get(main_key(c"N", network_id), None, databases[MAIN]))


# A network in a transaction ---------------------------------------------------------------------

# A release adds one address to the cool-down queue, and an assignment frees up to this many whose
# cool-down has ended. So the queue shrinks, and no single call has to free a burst.
cdef enum:
    EXPIRED_BESIDE = 4


def find(block, bytes key not None):
    """Return (network id, pool id, text of the pool's ranges, its encoded name), or None.

    ``key`` is a network's encoded name. Return the entry itself when it is another schema's, or cannot be read.
    """
    cdef bytes entry, pool
    cdef tuple databases = block.databases
    found = block.get(key, None, databases[NETWORKS])
    if found is None:
        return None
    entry = found
    if PyBytes_GET_SIZE(entry) <= 1 + 2 * ID_BYTES or bytes_of(entry)[0] != _SCHEMA:
        return entry
    name = to_bytes(bytes_of(entry) + 1 + 2 * ID_BYTES, PyBytes_GET_SIZE(entry) - 1 - 2 * ID_BYTES)
    found = block.get(name, None, databases[POOLS])
    if found is None:
        return entry
    pool = found
    if PyBytes_GET_SIZE(pool) < ID_BYTES or read32(bytes_of(pool)) != read32(bytes_of(entry) + 1 + ID_BYTES):
        return entry
    try:
        text = PyUnicode_DecodeUTF8(
            PyBytes_AS_STRING(pool) + ID_BYTES, PyBytes_GET_SIZE(pool) - ID_BYTES, NULL
        )
    except UnicodeDecodeError:
        return entry
    return read32(bytes_of(entry) + 1), read32(bytes_of(pool)), text, name


cdef bint take_in(StoredPages pages, intervals, u128* found) except -1:
    """Take the first free address of some intervals."""
    for low, high in intervals:
        if pages.take_next(from_python(low), from_python(high), found):
            return True
    return False


cdef class Accounts:
    """The records of a network and its pool in one write transaction; :meth:`save` before it ends.

    ``text`` are the ranges that the store remembers, as it has them; ``is_foreign`` says that the
    caller's ranges are others: partly a container's own. ``wall_ns`` is the wall clock of the last
    :meth:`tick`, in nanoseconds: what is written now carries it.
    """

    cdef readonly Transaction txn
    cdef readonly object store, network, policy
    cdef readonly str name
    cdef readonly uint32_t network_id, pool_id
    cdef readonly PoolState state
    cdef EventLog _log
    cdef readonly str text
    cdef readonly bint is_foreign
    cdef public int64_t wall_ns
    cdef uint32_t _boot
    cdef bint _is_cut  # into blocks of a cluster
    cdef object _stored
    cdef int64_t _cooldown_ns, _history  # as the policy has them
    cdef bytes _owner_name, _owner_key  # of the owner looked up last
    cdef list _events

    def __init__(self, Transaction txn not None, network, uint32_t network_id, uint32_t pool_id, str text not None):
        self.txn = txn
        self.store = txn.store
        self.network = network
        self.network_id = network_id
        self.pool_id = pool_id
        if self.store.boot_doubt:
            self.settle_boot()
        self._boot = self.store.boot
        self.name = network.name
        self.policy = network.policy
        self._cooldown_ns, self._history = self.policy.cooldown_ns, self.policy.history
        self.state = txn.pool_state(pool_id)
        self._events = []
        self.remember(text, None)

    def remember(self, str text, pool):
        """Take these for the ranges that the store remembers; ``pool`` is what they say, or None."""
        self.text = text
        self._is_cut = "@" in text
        given = self.network.pool
        self.is_foreign = given is not None and given.text != text
        self._stored = pool if given is None or self.is_foreign else given

    # What a subclass has, for the few calls that need it.

    def settle_boot(self):
        """Decide whether this is another boot, if that was unclear."""
        raise NotImplementedError

    def search_order(self, index, range_set):
        """Yield the intervals of a range set in the order in which they are searched."""
        raise NotImplementedError

    def require_certain(self, range_set, wanted):
        """Raise the error for a set whose blocks may not be this node's any more."""
        raise NotImplementedError

    def choose_more(self, index, range_set, values, wanted):
        """Return ``wanted`` addresses; ``values`` are those that were free."""
        raise NotImplementedError

    def kept_for(self, owner):
        """Return what is reserved for an owner, as (family, address) pairs."""
        raise NotImplementedError

    def first_kept(self, range_set, kept):
        """Return the first of these addresses that a range set may assign now, or None."""
        raise NotImplementedError

    def acquire(self, index, range_set, value, owner):
        """Take a requested address."""
        raise NotImplementedError

    def expire_kept(self, limit):
        """Expire sticky reservations."""
        raise NotImplementedError

    def keep_or_hold(self, key, raw, address, together):
        """Return whether a released address stays reserved."""
        raise NotImplementedError

    def take_place(self, key, raw, family, value):
        """Replace the record of a cooling address by a lease."""
        raise NotImplementedError

    def note_cleared(self, family, value):
        """Note that an address is free, in the counters and lists of ranges and blocks."""
        raise NotImplementedError

    def damaged_owner(self, name, address):
        """Return the error for a lease whose owner differs from the owner entry that lists it."""
        raise NotImplementedError

    # Numbers, clock, events

    @property
    def log(self):
        """The network's history: read by the first call that needs it."""
        if self._log is None:
            self._log = self.txn.event_log(self.network_id)
        return self._log

    @property
    def stored(self):
        """The ranges that the store remembers: what is outside is counted by them."""
        if self._stored is None:
            self._stored = self.network._ranges_of(self.text)
        return self._stored

    cdef int64_t now(self) except? -1:
        cdef timespec at
        clock = self.store.clock
        if clock is not time_ns:
            return clock()
        clock_gettime(CLOCK_REALTIME, &at)
        return <int64_t>at.tv_sec * 1000000000 + at.tv_nsec

    cpdef int64_t tick(self) except? -1:
        """Read the wall clock, advance the pool's clock to it and return the latter."""
        self.wall_ns = self.now()
        return self.state.tick(self.wall_ns)

    def note(self, int kind, int64_t generation, tuple address not None, bytes texts not None):
        """Enter an event in the network's history, if it keeps one."""
        self._note(kind, generation, address[0], from_python(address[1]), bytes_of(texts), len(texts))

    cdef int _note(
        self, int kind, int64_t generation, int family, u128 value, const uint8_t* texts, Py_ssize_t size
    ) except -1:
        if self._history:
            self._events.append(event_of(self.wall_ns, kind, generation, family, value, texts, size))
        return 0

    cdef int _note_lease(self, int kind, bytes raw, int family, u128 value) except -1:
        """Enter an event of a lease, by its record."""
        return self._note(
            kind, head_of(raw).generation, family, value,
            bytes_of(raw) + sizeof(LeaseHead), PyBytes_GET_SIZE(raw) - sizeof(LeaseHead),
        )

    cpdef int save(self) except -1:
        """Have the counters, the cursors and the events written. O(events) amortized."""
        cdef EventLog log
        cdef int64_t history = self._history
        cdef Py_ssize_t many = len(self._events)
        self.state._dirty = self.state._is_stored = True
        if not many:
            return 0
        log = self.log
        if many > history:  # more at once than the history keeps
            log.settle(self.txn)
            log.next += many - history
            del self._events[:many - history]
        log.append(self.txn, self._events)
        if log.next - log.first >= history + TRIM or log.next % TRIM == 0:
            log.trim(self.txn, history, self.now() - <int64_t>self.policy.history_age_ns, len(self._events) + TRIM)
        self._events = []
        log._dirty = log._is_stored = True
        return 0

    cdef bint remembers_policy(self) except -1:
        """Return whether the store remembers this policy as the last one of the network."""
        cdef object packed = self.policy.stored
        if not packed or self.policy.configured is not None:
            return False
        return self.txn.policy_of(self.network_id) == packed

    # Who has what

    cdef bytes _key_of_owner(self, bytes name):
        if self._owner_name != name:
            self._owner_name, self._owner_key = name, digest_key(self.network_id, name)
        return self._owner_key

    def owner_key(self, bytes name not None):
        """Return the key of an owner's entry."""
        return self._key_of_owner(name)

    cpdef list held_by(self, bytes name):
        """Return (family, address) of an owner's leases, in the order of the range sets."""
        raw = self.txn.look(OWNERS, self._key_of_owner(name))
        return [] if raw is None else read_held(raw, self.pool_id)

    def write_owner(self, bytes name not None, addresses):
        """Write the owner's entry: its addresses."""
        self.txn.write(OWNERS, self._key_of_owner(name), pack_held(self.pool_id, addresses), UNKNOWN)

    cpdef list leases_of(self, bytes name, held):
        """Return (key, packed lease, address) of an owner's addresses. Raises StoreCorrupt."""
        cdef list found = []
        for address in held:
            key = key_of(self.pool_id, address[0], from_python(address[1]))
            raw = self.txn.look(LEASES, key)
            if raw is None or not is_of_owner(raw, name):
                raise self.damaged_owner(name, address)
            found.append((key, raw, address))
        return found

    cpdef int number_of(self, int family, value) except -1:
        """Return the number of the pool's set that has an address, or NO_SET."""
        cdef u128 wanted = from_python(value)
        cdef int index = 0
        try:
            sets = self.stored.sets
        except errors.StoreCorrupt:  # of the ranges' text, which must not keep DEL from releasing
            return NONE_SET
        for range_set in sets:
            if range_set.family == family:
                for low, high in range_set.intervals:
                    if from_python(low) <= wanted <= from_python(high):
                        return index
            index += 1
        return NONE_SET

    # Cool-down

    cpdef Py_ssize_t expire(self, Py_ssize_t limit=EXPIRED_BESIDE) except -1:
        """Free up to ``limit`` cooled addresses, and as many whose sticky reservation is over.

        Return how many were due. O(limit + number of sets).
        """
        cdef Py_ssize_t due = self.expire_kept(limit) if self.state.kept else 0
        return due + self._expire_cooled(limit) if self.state.cooling else due

    cdef Py_ssize_t _expire_cooled(self, Py_ssize_t limit) except -1:
        cdef PoolState state = self.state
        cdef int64_t due = state.clock - self._cooldown_ns
        cdef Py_ssize_t left = limit
        cdef int64_t released, first = state.clock  # what is released from now on is later
        cdef int index
        cdef bytes key, seek = state.prefix
        if state._quiet > due:
            return 0
        cursor = self.txn.txn.cursor(self.txn.databases[COOLDOWN])
        try:
            while left and cursor.set_range(seek):
                key = cursor.key()
                if not key.startswith(state.prefix):
                    break
                _, index, released, family, value = read_cooldown_key(key)
                if released <= due:
                    self.txn.delete_under(COOLDOWN, cursor)
                    self._free_cooled(released, family, value)
                    left -= 1
                    continue
                first = min(first, released)
                if index == NONE_SET:
                    break
                seek = queue_key(self.pool_id, index + 1, 0, V4, 0)[:QUEUE_RELEASED]
            if left:
                state._quiet = first
        finally:
            cursor.close()
        return limit - left

    cdef int _free_cooled(self, int64_t released, int family, value) except -1:
        """Free an address whose place in the queue was deleted."""
        cdef bytes key = key_of(self.pool_id, family, from_python(value))
        cdef const LeaseHead* head
        raw = self.txn.look(LEASES, key)
        if raw is None:
            return 0
        head = head_of(raw)
        # If the lease says otherwise, the queue is damaged, and nobody loses an address.
        if head.state == _COOLING and head.released == <uint64_t>released:
            self.state.cooling -= 1
            self.txn.erase(LEASES, key, raw)
            self.clear(family, value)
        return 0

    cpdef int cool(self, bytes key, bytes raw, int family, value) except -1:
        """Let an address begin to cool down, at the time of the pool's clock."""
        # The set that has the address now: the ranges may have changed since its assignment.
        cdef int index = self.number_of(family, value)
        self.state.cooling += 1
        self.txn.write(LEASES, key, self._cooled(raw, index), raw)
        queued = queue_key(self.pool_id, index, self.state.clock, family, from_python(value))
        self.txn.write(COOLDOWN, queued, b"", None)
        return 0

    cdef bytes _cooled(self, bytes raw, int index):
        """Return the record of an address that begins to cool down."""
        cdef bytes cooled = PyBytes_FromStringAndSize(PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw))
        cdef LeaseHead* head = <LeaseHead*>head_of(cooled)
        head.state = _COOLING
        head.released = self.state.clock
        head.set_index = index
        return cooled

    cpdef int clear(self, int family, value) except -1:
        """Clear the bit of an address whose record was deleted."""
        self.txn.pages(self.pool_id, family).clear_bit(from_python(value))
        if self.state.outside or self._is_cut:
            self.note_cleared(family, value)
        return 0

    # Assigning

    cpdef list choose(self, int index, range_set, Py_ssize_t wanted=1):
        """Take ``wanted`` addresses of a range set, in the order in which single calls take them.

        Free addresses come first, then those whose sticky reservation is over, then those that
        have cooled longest. ``index`` is the set's number in the caller's ranges. Amortized
        O(wanted). Raises PoolExhausted, also when the store's word on its blocks is in doubt.
        """
        cdef list values
        cdef u128 found = 0
        cdef int family = range_set.family
        cdef bint is_cut = range_set.block_length
        if is_cut:
            self.require_certain(range_set, wanted)
        if wanted == 1 and not is_cut:
            if self._take_next(self.txn.pages(self.pool_id, family), index, range_set, &found):
                self.state.set_cursor(index, family, found)
                values = [to_python(found)]
                if self.is_foreign:
                    self.count_outside(family, values)
                return values
            values = []
        else:
            values = self.take_many(index, range_set, wanted)
            if values:
                self.state.set_cursor(index, family, from_python(values[-1]))
        if len(values) < wanted:
            values = self.choose_more(index, range_set, values, wanted)
            self.state.set_cursor(index, family, from_python(values[-1]))
        return values

    cdef bint _take_next(self, StoredPages pages, int index, range_set, u128* found) except -1:
        """Take the next free address behind the cursor of a range set, round robin."""
        cdef tuple intervals = range_set.intervals
        cdef u128 cursor = 0, low = 0, high = 0
        cdef Py_ssize_t count = len(intervals), at = 0
        if self.state.find_cursor(index, range_set.family, &cursor):
            while at < count:
                low, high = from_python(intervals[at][0]), from_python(intervals[at][1])
                if low <= cursor <= high:
                    break
                at += 1
            else:  # it is excluded now, or outside
                return take_in(pages, self.search_order(index, range_set), found)
            return (
                (cursor < high and pages.take_next(cursor + 1, high, found))
                or take_in(pages, intervals[at + 1:] + intervals[:at], found)
                or pages.take_next(low, cursor, found)
            )
        return take_in(pages, intervals, found)

    cpdef list take_many(self, int index, range_set, Py_ssize_t wanted):
        """Take up to ``wanted`` free addresses of a range set, behind its cursor first."""
        cdef StoredPages pages = self.txn.pages(self.pool_id, range_set.family)
        cdef list values = []
        for low, high in self.search_order(index, range_set):
            values += pages.take(low, high, wanted - len(values))
            if len(values) == wanted:
                break
        self.count_outside(range_set.family, values)
        return values

    def count_outside(self, int family, values):
        """Count which of the free addresses that were taken lie outside the pool's ranges."""
        if self.is_foreign:
            self.state.outside += sum([not self.stored.holds(family, value) for value in values])

    cpdef int set_of(self, int index, int family, value) except -1:
        """Return the number of the pool's set that has an address, for its lease.

        ``index`` is the number of the set in the caller's ranges.
        """
        return self.number_of(family, value) if self.is_foreign else index

    cdef int _place_of(self, int index, range_set) except -1:
        """Return the place of a set's cursor; ``index`` is the set's number in the caller's ranges.

        Networks of one pool have ranges of their own, and the cursor is that of the pool's set.
        """
        cdef int place = index
        if self.is_foreign and range_set.intervals and not range_set.block_length:
            place = self.number_of(range_set.family, range_set.intervals[0][0])
        return index if place == NONE_SET else place

    cpdef list give(self, Requester owner, pool, wanted=None):
        """Assign an address of every range set to an owner that has none; return the leases.

        ``wanted`` has for each set a requested address, or None. Addresses that are reserved for
        the owner come first. The caller's transaction, or part, has to fail when this fails.
        O(range sets and their intervals). Raises PoolExhausted, AddressInUse, AddressNotInRange.
        """
        cdef list leases = [], kept = []
        cdef int index
        self.tick()
        self.expire()
        if self.state.reserved:
            kept = self.kept_for(owner)
        for index, range_set in enumerate(pool.sets):
            value = wanted[index] if wanted is not None else None
            if value is None and kept:
                value = self.first_kept(range_set, kept)
            if value is None:
                value = self.choose(self._place_of(index, range_set), range_set)[0]
            else:
                self.acquire(self._place_of(index, range_set), range_set, value, owner)
            leases.append(self.assign(owner, index, range_set, value))
        self._enter_owner(owner, leases)
        self.save()
        return leases

    cdef int _enter_owner(self, Requester owner, list leases) except -1:
        cdef bytes entry
        if len(leases) == 1:
            entry = key_of(self.pool_id, leases[0].family, from_python(leases[0].value))
        else:
            entry = pack_held(self.pool_id, [(one.family, one.value) for one in leases])
        self.txn.write(OWNERS, self._key_of_owner(owner.name), entry, None)
        return 0

    cpdef LeaseFields assign(self, Requester owner, int index, range_set, value):
        """Write the lease of an address that was chosen or acquired, and return it."""
        cdef tuple ranges = range_set.ranges
        its_range = ranges[0] if len(ranges) == 1 else range_set.range_of(value)
        return self.enter(owner, (range_set.family, value), self.set_of(index, range_set.family, value), its_range)

    cpdef LeaseFields enter(self, Requester owner, tuple address, int index, its_range, int kind=1):
        """Write a lease at the time of the last :meth:`tick`, and return it.

        ``index`` is the number of the pool's set, ``its_range`` the range or None, ``kind`` what
        the history calls it.
        """
        cdef LeaseHead head
        cdef int family = address[0]
        cdef u128 value = from_python(address[1])
        self._fill_head(&head)
        owner.describe(&head)
        head.length = 8 * address_bytes(family) if its_range is None else its_range.length
        head.set_index = index
        head.sticky_s = self.policy.sticky_s if owner.has_pod() else 0
        raw = self._put_lease(&head, owner.texts, key_of(self.pool_id, family, value), family, value, kind)
        router = None if its_range is None else its_range.gateway
        return self.network.lease_type(self.name, family, address[1], router, raw)

    cdef bytes _put_lease(
        self, LeaseHead* head, bytes texts, bytes key, int family, u128 value, int kind
    ):
        """Write the lease of an address that was taken, count and note it; return its record."""
        cdef bytes raw
        self.state.generation += 1
        self.state.assigned += 1
        head.generation = self.state.generation
        raw = lease_of(head, texts)
        if not self.txn.add(LEASES, key, raw):
            self.take_place(key, raw, family, to_python(value))
        self._note_lease(kind, raw, family, value)
        return raw

    cdef void _fill_head(self, LeaseHead* head) noexcept:
        """Fill in what all leases of this call have alike."""
        memset(head, 0, sizeof(LeaseHead))
        head.state = _ASSIGNED
        head.boot = self._boot
        head.allocated_ns = self.wall_ns
        head.network_id = self.network_id

    # Releasing

    cpdef list release(self, bytes name, int kind=2, newest=None):
        """Release the addresses of an owner and return them; none if one is newer than ``newest``.

        ``kind`` is the reason, for the history. A reserved or sticky address stays reserved for its
        owner, every other cools down. Raises StoreCorrupt when a lease names another owner.
        """
        cdef list held, found
        cdef bytes key = self._key_of_owner(name), raw
        entry = self.txn.look(OWNERS, key)
        if entry is None:
            return []
        held = read_held(entry, self.pool_id)
        found = self.leases_of(name, held)
        if newest is not None:
            for _, raw, _ in found:
                if head_of(raw).generation > newest:
                    return []
        self._release_found(key, entry, found, held, kind)
        return held

    cdef int _release_found(self, bytes key, bytes entry, list found, list held, int kind) except -1:
        """Release the leases in ``found``, which are all of an owner's ``entry``."""
        cdef bytes lease_key, raw
        self.tick()
        for lease_key, raw, address in found:
            self._give_back(lease_key, raw, address, held)
            self._note_lease(kind, raw, address[0], from_python(address[1]))
        self.txn.erase(OWNERS, key, entry)
        self.save()
        return 0

    cdef int _give_back(self, bytes key, bytes raw, tuple address, list together) except -1:
        """Move an assigned address to its reservation or into cool-down.

        ``together`` are the addresses that the owner releases now.
        """
        self.state.assigned -= 1
        if self.state.kept or head_of(raw).sticky_s:
            if self.keep_or_hold(key, raw, address, together):
                return 0
        if self._cooldown_ns:
            self.cool(key, raw, address[0], address[1])
        else:
            self.txn.erase(LEASES, key, raw)
            self.clear(address[0], address[1])
        return 0

    # Many at once

    cpdef list give_many(self, list owners, pool):
        """Assign an address of every range set to each of these owners, which have none.

        They get what single calls in their order would give them, but for reserved addresses.
        Return for each range set the leases in the order of the owners. O(owners). Raises
        PoolExhausted; returns None, when an owner has an entry, and then the caller has to fail.
        """
        cdef list columns = [], values
        cdef int index
        self.tick()
        self.expire(EXPIRED_BESIDE * len(owners))
        for index, range_set in enumerate(pool.sets):
            values = self.choose(self._place_of(index, range_set), range_set, len(owners))
            columns.append(self._enter_many(owners, index, range_set, values))
        if not self._enter_owners(owners, columns):
            return None
        self.save()
        return columns

    cdef list _enter_many(self, list owners, int index, range_set, list values):
        """Write the leases of one range set, and return them."""
        cdef PoolState state = self.state
        cdef LeaseHead head
        cdef Requester owner
        cdef int family = range_set.family
        cdef Py_ssize_t at, count = len(owners), first = count - self._history
        cdef u128 value, low = 1, high = 0
        cdef list items = [], leases = []
        lease_type = self.network.lease_type
        its_range = router = None
        self._fill_head(&head)
        for at in range(count):
            owner = <Requester?>owners[at]
            value = from_python(values[at])
            if not low <= value <= high:
                its_range = range_set.range_of(values[at])
                low, high = from_python(its_range.start), from_python(its_range.end)
                head.length = its_range.length
                router = its_range.gateway
            state.generation += 1
            head.generation = state.generation
            head.set_index = self.set_of(index, family, values[at]) if self.is_foreign else index
            owner.describe(&head)
            raw = lease_of(&head, owner.texts)
            items.append((key_of(self.pool_id, family, value), raw))
            leases.append(lease_type(self.name, family, values[at], router, raw))
            if at >= first:
                self._note(
                    _EVENT_ASSIGNED, state.generation, family, value,
                    bytes_of(owner.texts), PyBytes_GET_SIZE(owner.texts),
                )
        state.assigned += count
        _, new = self.txn.add_many_to(LEASES, items)
        if new < count:  # some were cooling
            for at in range(count):
                key, raw = items[at]
                if self.txn.look(LEASES, key) != raw:
                    self.take_place(key, raw, family, values[at])
        return leases

    cdef bint _enter_owners(self, list owners, list columns) except -1:
        """Write the entries of new owners in the order of their keys; False if one is not new."""
        cdef list items = [], keys
        cdef Py_ssize_t at
        for at in range(len(owners)):
            keys = [
                key_of(self.pool_id, column[at].family, from_python(column[at].value))
                for column in columns
            ]
            entry = keys[0] if len(keys) == 1 else b"".join(keys)
            items.append((digest_key(self.network_id, (<Requester>owners[at]).name), entry))
        items.sort()
        given, new = self.txn.add_many_to(OWNERS, items)
        return given == new

    cpdef tuple release_many(self, list names, int kind=2):
        """Release the addresses of these owners.

        Return how many addresses were released, and the names that had none. O(addresses). The
        records are read and written in the order of their keys, which is that of LMDB's pages.
        Raises StoreCorrupt when a lease names another owner, and then the caller has to fail.
        """
        cdef dict owners = {digest_key(self.network_id, name): name for name in names}
        cdef list entries = [], missing = [], leases
        cdef bytes key, raw
        with self.txn.txn.cursor(self.txn.databases[OWNERS]) as cursor:
            for key in sorted(owners):
                raw = self.txn.take(OWNERS, key, cursor)
                if raw is None:
                    missing.append(owners[key])
                else:
                    entries.append((key, raw, owners[key]))
        if not entries:
            return 0, missing
        self.tick()
        leases = self._leases_of_many(entries)
        if leases is None:
            return self._release_each(entries, kind), missing
        if self._cooldown_ns:
            self._cool_many(leases)
        else:
            self._free_many(leases)
        self.state.assigned -= len(leases)
        self._note_released(leases, kind)
        self.save()
        return len(leases), missing

    cdef Py_ssize_t _release_each(self, list entries, int kind) except -1:
        """Release one owner after the other: an address may stay reserved."""
        cdef Py_ssize_t released = 0
        for key, raw, name in entries:
            self.txn.write(OWNERS, key, raw, None)
            released += len(self.release(name, kind))
        return released

    cdef list _leases_of_many(self, list entries):
        """Return (key, record) of the leases of owners, in address order.

        ``entries`` are key and value of the owners' entries, and their names. Return None if an
        address may stay reserved.
        """
        cdef dict names = {}  # by the lease's key
        cdef list leases = []
        cdef bytes entry, key, name, raw
        if self.state.kept or self.policy.sticky_s:
            return None
        for _, entry, name in entries:
            for key in (entry,) if is_one_key(self.pool_id, entry) else self._keys_in(entry):
                if names.setdefault(key, name) is not name:
                    raise self.damaged_owner(name, read_held(key, self.pool_id)[0])
        leases = self.txn.look_many(LEASES, sorted(names))
        if len(leases) < len(names):
            leases += [(key, b"") for key in names.keys() - {key for key, _ in leases}]
        for key, raw in leases:
            if not is_of_owner(raw, names[key]):
                raise self.damaged_owner(names[key], read_held(key, self.pool_id)[0])
            if head_of(raw).sticky_s:  # of a policy that the network had
                return None
        return leases

    cdef list _keys_in(self, bytes entry):
        """Return the keys of leases that an owner's entry consists of. Raises StoreCorrupt."""
        return [
            key_of(self.pool_id, family, from_python(value))
            for family, value in read_held(entry, self.pool_id)
        ]

    cdef int _cool_many(self, list leases) except -1:
        """Let addresses begin to cool down, as :meth:`cool` does for one."""
        cdef list cooled = [], queued = []
        cdef bytes key, raw
        cdef int family, known = 0, index = NONE_SET
        cdef u128 value, low = 1, high = 0
        for key, raw in leases:
            family = bytes_of(key)[ID_BYTES]
            value = read_address(bytes_of(key) + ID_BYTES + 1, family)
            if family != known or not low <= value <= high:
                known, low, high = family, value, value
                index = self._set_around(family, &low, &high)
            cooled.append((key, self._cooled(raw, index)))
            queued.append(
                (queue_key(self.pool_id, index, self.state.clock, family, value), b"")
            )
        self.state.cooling += len(leases)
        self.txn.write_many(LEASES, cooled, leases)
        self.txn.write_many(COOLDOWN, queued, None)
        return 0

    cdef int _set_around(self, int family, u128* low, u128* high) except -1:
        """Return the number of the set that has ``low``; the addresses up to ``high`` have it, too."""
        cdef object value = to_python(low[0])
        cdef int index = self.number_of(family, value)
        if index != NONE_SET:
            for start, end in self.stored.sets[index].intervals:
                if start <= value <= end:
                    high[0] = from_python(end)
        return index

    cdef int _free_many(self, list leases) except -1:
        """Free addresses that need not cool down."""
        cdef bytes key, raw
        cdef int family
        for key, raw in leases:
            family = bytes_of(key)[ID_BYTES]
            self.txn.erase(LEASES, key, raw)
            self.clear(family, to_python(read_address(bytes_of(key) + ID_BYTES + 1, family)))
        return 0

    cdef int _note_released(self, list leases, int kind) except -1:
        """Enter the releases in the history: the last ones, if it does not keep so many."""
        cdef bytes key, raw
        cdef int family
        if not self._history:
            return 0
        for key, raw in leases[-min(len(leases), self._history):]:
            family = bytes_of(key)[ID_BYTES]
            self._note_lease(kind, raw, family, read_address(bytes_of(key) + ID_BYTES + 1, family))
        return 0


# The plain case of a call -----------------------------------------------------------------------
#
# What these functions do not take on, ``fastipam.network`` does by the steps above, one by one.

cpdef Accounts enter(Transaction txn, network):
    """Return a network's records; None if Python has something to do or to say before.

    So it is when the store does not know the network, or whether this is another boot, and when
    leases of an earlier boot are left.
    """
    cdef Accounts accounts
    if txn.store.boot_doubt:
        return None
    found = txn.find(network._key)
    if type(found) is not tuple:
        return None
    accounts = network.ledger_type(txn, network, found[0], found[1], found[2])
    return accounts if accounts.state.swept == accounts._boot else None


cpdef Accounts enter_to_assign(Transaction txn, network):
    """Do the same, and return None also when something has to be written or asked before an ADD.

    That is when the network is new, when the store remembers another pool, other ranges or another
    policy, and when the ranges are cut into blocks.
    """
    cdef Accounts accounts
    cdef bint is_known
    if network.pool is None:
        return None
    accounts = enter(txn, network)
    if network.pool_key is not None and accounts is not None:
        if txn.find(network._key)[3] != network.pool_key:
            return None
    if accounts is None or accounts.is_foreign or accounts._is_cut or not accounts.state.generation:
        return None
    is_known = not network._remember or accounts.remembers_policy()
    return accounts if is_known else None


cdef list assign_plain(Transaction txn, network, Requester owner):
    """Assign an address of every range set to a new owner, and return the leases.

    Returns None, and has changed nothing, when the network or the call is not plain. Raises what
    :meth:`Accounts.give` raises.
    """
    cdef Accounts accounts = enter_to_assign(txn, network)
    if accounts is None or accounts.state.kept or accounts.state.reserved:
        return None
    if accounts.policy.sticky_s and owner.has_pod():
        return None
    if txn.look(OWNERS, accounts._key_of_owner(owner.name)) is not None:
        return None
    leases = accounts.give(owner, network.pool)
    txn.note_brief()
    return leases


cdef list release_plain(Transaction txn, network, bytes name):
    """Release the addresses of an owner and return them; None when Python has to do it."""
    cdef Accounts accounts = enter(txn, network)
    if accounts is None:
        return None
    held = accounts.release(name)
    txn.note_brief()
    return held


def join(leases):
    """Make the leases of one owner siblings, and return the first."""
    cdef tuple together
    if len(leases) > 1:
        together = tuple(leases)
        for lease in together:
            (<LeaseFields?>lease)._siblings = together
    return leases[0]


@cython.final
cdef class Assignment(Call):
    """The call of :meth:`fastipam.Network.allocate`. It returns what ``_try_assign`` does."""

    cdef object _network, _wanted, _existing, _promised
    cdef Requester _owner

    def __init__(self, network, Requester owner not None, wanted, existing, promises):
        self._network, self._owner, self._wanted = network, owner, wanted
        self._existing, self._promised = existing, promises

    cpdef make(self, txn):
        cdef list leases = None
        if not self._wanted:
            leases = assign_plain(txn, self._network, self._owner)
        if leases is not None:
            return join(leases)
        return self._network._try_assign(
            txn, self._owner, self._wanted, self._existing, self._promised
        )


@cython.final
cdef class Release(Call):
    """The call of :meth:`fastipam.Network.release`. It returns (family, address) pairs.

    Raises ConfigError when a record cannot hold the owner.
    """

    cdef object _network, _container_id, _ifname
    cdef bytes _name

    def __init__(self, network, container_id, ifname):
        check_owner(container_id, ifname)
        self._network, self._container_id, self._ifname = network, container_id, ifname
        self._name = owner_name(container_id, ifname)

    cpdef make(self, txn):
        cdef list held = release_plain(txn, self._network, self._name)
        if held is None:
            held = self._network._release(txn, (self._container_id, self._ifname))
        if not held and self._ifname:
            # A lease imported from an old host-local tree has no interface: it belongs to the whole
            # container, and is released with the first interface that has no lease.
            held = self._network._release(txn, (self._container_id, ""))
        return held


include "_accept.pxi"
include "_request.pxi"
include "_serve.pxi"
