# cython: language_level=3, embedsignature=False, auto_pickle=False, binding=False
"""How a store assigns and releases addresses, in native code.

The way of an ADD through this file: ``Network.allocate`` makes an ``Assignment``. ``perform`` takes
the writer's lock, begins a transaction and runs ``Assignment.make`` in it, which calls
``assign_plain``. That looks up the network and its pool (``enter``), or goes on with what the last
call of the process has passed on (``Memory``, ``enter_again``). Then it assigns (``Accounts.give``):
``choose`` takes a free bit in the bitmap, ``assign`` writes the lease record, ``_enter_owner`` the
owner's entry, and ``save`` the event. Bitmaps and counters are changed in memory; the end of the
transaction writes them (``flush``) and commits.

The sections, in the order in which a call needs them; its way begins in the last one:

1. ``_transaction.pxi``, how a transaction begins and ends: the writer's lock, begin, commit;
2. *The bytes of records* that each call reads and writes;
3. *The owner of an address*, *a pool's numbers* and *a network's history*: what the records become
   in memory;
4. *A write transaction*: databases, bitmaps and numbers during one LMDB transaction, and how the
   changes of a failed call are undone;
5. *Calls, and group commit*: run a call in a transaction, and with it the calls of waiting threads;
6. *A network in a transaction*, ``Accounts``: it finds the owner, frees addresses whose cool-down is
   over, chooses, assigns and releases addresses, and records the events;
7. *The plain case of a call*: ``Assignment`` and ``Release``, the calls that the library makes. The
   plain case is the frequent one, which native code serves alone.

The agent uses three more files: ``_accept.pxi`` accepts a connection, ``_request.pxi`` reads a
request, and ``_serve.pxi`` serves a plain request.

Code that few calls need is in Python, in a subclass of ``Accounts`` (``fastipam.allocation``). The
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

cdef enum:  # the index of each database in the tuple ``databases``
    MAIN, META, NETWORKS, POOLS, PAGES, LEASES, OWNERS, COOLDOWN, EVENTS

# Their names, in the same order. storage/tables.py declares these databases before its others. The
# main database has no name.
PLACES = ("", "meta", "networks", "pools", "pages", "leases", "owners", "cooldown", "events")


# The bytes of records ---------------------------------------------------------------------------
#
# Numbers in keys are big-endian, so that LMDB sorts the keys by number. Numbers in values are
# little-endian, which is the byte order of the supported processors. Texts are UTF-8, separated
# by NUL.

SCHEMA = 4  # the version of this layout; each network's entry begins with it. 1 to 3: unreleased
cdef uint8_t _SCHEMA = SCHEMA

cdef enum:
    V4 = 4
    V6 = 6
    ID_BYTES = 4
    DIGEST_BYTES = 16
    LONGEST_KEY = 64
    NONE_SET = 65535  # the set number of a lease whose address is in no range set of its pool
    MOST_BITS = 62  # the most bits of a number that only grows

# The states of an address that has a lease record.
ASSIGNED = 1
COOLING = 2
# Kinds of events; 1 is an assignment. storage/records/event.py has the other kinds and all names.
RELEASED = 2
GC = 3
REBOOTED = 5
OPERATOR = 6
IMPORTED = 9
NO_SET = NONE_SET
cdef int _ASSIGNED = 1, _COOLING = 2
cdef int _EVENT_ASSIGNED = 1, _EVENT_RELEASED = 2


cdef inline int address_bytes(int family) noexcept nogil:
    """Return the number of bytes of an address, or 0 for an unknown family."""
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
    """Return the id of a pool or a network as the prefix of all its keys."""
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
        raise errors.StoreCorrupt(
            f"a lease's record cannot be read: the bytes are {raw.hex()}", hint=errors.CHECK_HINT
        )
    return <const LeaseHead*>bytes_of(raw)


cdef inline bytes lease_of(const LeaseHead* head, bytes texts):
    return joined_bytes(<const uint8_t*>head, sizeof(LeaseHead), texts)


def pack_lease(
    int state, int length, int set_index, boot, generation, allocated_ns, released, inode,
    mount_ns, sticky_s, born_ns, network_id, bytes texts not None,
):
    """Return the record of a lease. Raises OverflowError for a number too large for its field."""
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
    """Return (numbers, texts) of a lease's record; the numbers in the order of :func:`pack_lease`.

    Raises StoreCorrupt when the record is too short.
    """
    cdef const LeaseHead* head = head_of(raw)
    numbers = (
        head.state, head.length, head.set_index, head.boot, head.generation, head.allocated_ns,
        head.released, head.inode, head.mount_ns, head.sticky_s, head.born_ns, head.network_id,
    )
    return numbers, raw[sizeof(LeaseHead):]


def with_boot(bytes raw not None, uint32_t boot):
    """Return a copy of a lease's record with this boot number. Raises StoreCorrupt."""
    cdef LeaseHead head
    memcpy(&head, head_of(raw), sizeof(LeaseHead))
    head.boot = boot
    return lease_of(&head, raw[sizeof(LeaseHead):])


def texts_of(bytes raw not None):
    """Return the texts of a lease's record."""
    head_of(raw)
    return raw[sizeof(LeaseHead):]


def is_assigned(bytes raw not None):
    """Return whether a lease's record says that the address is assigned."""
    return PyBytes_GET_SIZE(raw) > 0 and bytes_of(raw)[0] == _ASSIGNED


def generation_of(bytes raw not None):
    """Return the generation of a lease's record. Raises StoreCorrupt."""
    return head_of(raw).generation


def boot_of(bytes raw not None):
    """Return the boot number in a lease's record. Raises StoreCorrupt."""
    return head_of(raw).boot


def network_of(bytes raw not None):
    """Return the id of the network in which a lease was assigned. Raises StoreCorrupt."""
    return head_of(raw).network_id


cdef bint is_of_owner(bytes raw, bytes name):
    """Return whether a lease's record says that the address is assigned to exactly this owner."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(name), at = sizeof(LeaseHead)
    return (
        PyBytes_GET_SIZE(raw) > at + size
        and bytes_of(raw)[0] == _ASSIGNED
        and memcmp(bytes_of(raw) + at, bytes_of(name), size) == 0
        and bytes_of(raw)[at + size] == 0
    )


def is_assigned_to(bytes raw not None, bytes name not None):
    """Return whether the address is assigned to the owner with this :func:`owner_name`."""
    return is_of_owner(raw, name)


# An owner's entry: the keys of its leases, concatenated. Its key: network id, digest of its name.

cdef bytes digest_key(uint32_t network_id, bytes name):
    cdef uint8_t out[ID_BYTES + DIGEST_BYTES]
    write32(out, network_id)
    fastipam_digest(out + ID_BYTES, bytes_of(name), PyBytes_GET_SIZE(name))
    return to_bytes(out, ID_BYTES + DIGEST_BYTES)


def owner_key(bytes prefix not None, bytes name not None):
    """Return the key of an owner's entry: ``prefix`` and the digest of the owner's name.

    The name itself may be too long: an LMDB key has at most 511 bytes, and a container id has no
    limit. Among 2**40 owners, the probability that two 16-byte BLAKE2b digests are equal is 2**-49.
    A lease has its owner's full name, which is compared before the address is released.
    """
    cdef uint8_t out[DIGEST_BYTES]
    fastipam_digest(out, bytes_of(name), PyBytes_GET_SIZE(name))
    return prefix + to_bytes(out, DIGEST_BYTES)


def pack_held(uint32_t pool_id, addresses):
    """Return an owner's entry: the keys of its (family, integer) addresses in a pool."""
    return b"".join([address_key(pool_id, family, value) for family, value in addresses])


def read_held(bytes raw not None, uint32_t pool_id):
    """Return the (family, integer) pairs of an owner's entry that :func:`pack_held` has made.

    Raises StoreCorrupt when it is damaged, or has an address of another pool.
    """
    cdef const uint8_t* at = bytes_of(raw)
    cdef const uint8_t* end = at + PyBytes_GET_SIZE(raw)
    cdef int size
    cdef list found = []
    while at < end:
        size = address_bytes(at[ID_BYTES]) if end - at > ID_BYTES else 0
        if not size or end - at < ID_BYTES + 1 + size:
            raise errors.StoreCorrupt(
                f"an owner's addresses cannot be read: the bytes are {raw.hex()}",
                hint=errors.CHECK_HINT,
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
    """Return whether an owner's entry is the key of exactly one lease, and in this pool."""
    cdef const uint8_t* at = bytes_of(entry)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(entry) - ID_BYTES - 1
    return size > 0 and address_bytes(at[ID_BYTES]) == size and read32(at) == pool_id


# A key of the cool-down queue: pool id, set, released, family, address. Its value is empty.

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
    """Return the key of a cooling address in the queue. A range set's keys sort by release time."""
    return queue_key(pool_id, set_index, released, family, from_python(value))


def read_cooldown_key(bytes key not None):
    """Return (pool id, set index, released, family, address) of a :func:`cooldown_key`.

    Raises StoreCorrupt when it is not such a key.
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
    """Return an event's record; ``texts`` are its lease's texts, ``address`` (family, integer)."""
    return event_of(
        wall_ns, kind, generation, address[0], from_python(address[1]),
        bytes_of(texts), PyBytes_GET_SIZE(texts),
    )


def read_event(bytes raw not None):
    """Return (wall clock, kind, family, generation, address, texts) of an event's record.

    Raises ValueError when it is damaged.
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
    """Return whether an event happened at ``since_ns`` or later; False for a damaged record."""
    return (
        PyBytes_GET_SIZE(raw) >= <Py_ssize_t>sizeof(EventHead)
        and (<int64_t>(<const EventHead*>bytes_of(raw)).wall_ns) >= since_ns
    )


def wall_ns_of(bytes raw not None):
    """Return the time of an event's record, or None when the record is too short."""
    if PyBytes_GET_SIZE(raw) < <Py_ssize_t>sizeof(EventHead):
        return None
    return (<const EventHead*>bytes_of(raw)).wall_ns


# A pool's numbers. The key is ``P`` and the pool's id, in the main database: each commit writes that
# leaf anyway. After the numbers comes a cursor for each range set.

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


# A network's newest events. The key is ``N`` and the network's id, in the main database. After the
# numbers come the events, each after its length (2 bytes).

cdef packed struct LogNumbers:
    uint64_t following
    uint64_t first


# An entry of ``networks``: the schema's number (1 byte), network id, pool id, the pool's name. Its key
# is the network's name. An entry of ``pools``: pool id, the text of the ranges. Its key is the name.

cdef enum:
    ENTRY_NETWORK = 1
    ENTRY_POOL = ENTRY_NETWORK + ID_BYTES
    ENTRY_NAME = ENTRY_POOL + ID_BYTES


# The owner of an address ------------------------------------------------------------------------

cdef enum:
    TEXTS = 6  # container id, interface, path of the namespace, pod's namespace, name and UID


def encode(str field, text):
    """Return a text as the store has it: in UTF-8.

    Raises ConfigError for half a surrogate pair, which a JSON escape can produce.
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        message = f"{field} {text!r} cannot be encoded as UTF-8: {error}"
        raise errors.ConfigError(message, field=field, value=text) from None


cdef inline str exact(text):
    """Return a text as a plain str. An object of a subclass, such as an Enum, is converted."""
    return <str>PyUnicode_FromObject(text)


def owner_name(container_id, ifname):
    """Return an owner's name: a lease's texts begin with it, an owner's key has its digest."""
    name = f"{exact(container_id)}\0{exact(ifname)}"
    return name.encode() if name.isascii() else encode("container_id or ifname", name)


def check_owner(container_id, ifname):
    """Raise ConfigError when the store cannot record this owner."""
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
    """Return whether a text is ASCII without NUL. Nearly every text is."""
    cdef Py_ssize_t size
    cdef const char* at
    if not PyUnicode_CheckExact(text) or not PyUnicode_IS_COMPACT_ASCII(text):
        return False
    at = PyUnicode_AsUTF8AndSize(text, &size)
    return memchr(at, 0, size) == NULL


cdef bytes join_texts(tuple texts, Py_ssize_t* name_size):
    """Return plain texts separated by NUL; set ``name_size`` to the size of the first two."""
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
    """The owner for which a call requests an address, as its lease will record it.

    ``name`` is the :func:`owner_name`. ``texts`` are all texts of the lease's record: the name, the
    path of the network namespace and the pod. ``netns`` is a :class:`fastipam.Netns`, or None when
    it is unknown. ``pod_texts`` are the pod's Kubernetes namespace, its name and its UID. The
    constructor raises ConfigError, with the field, for a text that the store cannot record.
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
        """Set ``name`` and ``texts`` when a text is not plain. Raises ConfigError."""
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
        """The pod as "namespace/name", or "" when the texts name none."""
        namespace, name, _ = self.pod_texts
        return f"{namespace}/{name}" if namespace and name else ""

    cdef void describe(self, LeaseHead* head) noexcept:
        """Set the lease's fields that identify the owner's network namespace."""
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
    """The base class of :class:`fastipam.Lease`: its fields, without its properties.

    ``_record`` is the lease's record. It stays bytes until a property needs it decoded.
    """

    cdef readonly str network
    cdef readonly int family
    cdef readonly object value
    cdef readonly object _router
    cdef public object _record
    cdef public tuple _siblings  # () if alone: (self,) would be a cycle for the garbage collector
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
    by state. ``outside`` counts the addresses in these states that are not, or no longer, in the
    configured ranges. ``kept`` counts reservations, also when the address is assigned to the owner.

    ``swept`` is a boot: all leases of earlier boots are released. ``sweep`` is the position of the
    search for such leases: (family, address), or (0, 0) at its beginning. If the record has an
    impossible position, the search begins again. ``cursors`` has for each range set the family and
    the address of the last assignment, packed; family 0: none yet.

    ``clock`` is the pool's own clock, in nanoseconds: the wall clock plus ``offset``. It never
    goes back, because ``offset`` grows when the wall clock steps back. It measures cool-down, so a
    step back prolongs none, and a step forward of n seconds ends it at most n seconds early. A
    damaged offset does no harm: :meth:`tick` corrects it when the time that it gives is impossible.
    """

    cdef readonly uint32_t pool_id
    cdef readonly bytes prefix, key
    cdef public int64_t generation, assigned, cooling, reserved, outside, clock, offset, kept
    cdef public int64_t swept
    cdef public tuple sweep
    cdef public bytes cursors
    cdef bint _dirty, _is_stored
    cdef bytes _stored  # the record in the store, as it was read or written by flush()
    cdef long _part  # serial of the last part of the transaction that has used it
    cdef int64_t _quiet  # no queued address was released before this time; 0: not known

    def __init__(self, uint32_t pool_id, raw=None):
        self.pool_id = pool_id
        self.prefix = prefix_of(pool_id)
        self.key = main_key(c"P", pool_id)
        self.sweep = (0, 0)
        self.cursors = b""
        if raw is not None:
            self._read(raw)
            self._stored = raw

    cdef int _read(self, bytes raw) except -1:
        cdef u128 position
        cdef const PoolNumbers* numbers = <const PoolNumbers*>bytes_of(raw)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(raw) - <Py_ssize_t>sizeof(PoolNumbers)
        if size < 0 or size % <Py_ssize_t>sizeof(Cursor):
            raise errors.StoreCorrupt(
                f"a pool's numbers cannot be read: the bytes are {raw.hex()}",
                hint=errors.CHECK_HINT,
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
        position = read_address(numbers.sweep, V6)
        self.sweep = (0, 0)
        if numbers.sweep_family == V6 or (numbers.sweep_family == V4 and not position >> 32):
            self.sweep = numbers.sweep_family, to_python(position)
        self.cursors = raw[sizeof(PoolNumbers):]
        self._is_stored = True
        self._quiet = 0  # undoing a part puts the addresses that it freed back into the queue
        return 0

    cpdef bytes pack(self):
        """Return the record, as the constructor reads it. Raises StoreCorrupt for a bad counter."""
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
        """The number of addresses whose bit is set in the bitmap."""
        return self.assigned + self.cooling + self.reserved

    cdef bint find_cursor(self, int set_index, int family, u128* value) noexcept:
        """Set ``value`` to a range set's cursor; return False if it has none of this family."""
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
        """Return (family, address) of each range set's cursor, or None for a set without one."""
        cdef Py_ssize_t at
        cdef u128 value = 0
        cdef list found = []
        for at in range(PyBytes_GET_SIZE(self.cursors) // <Py_ssize_t>sizeof(Cursor)):
            family = (<const Cursor*>bytes_of(self.cursors) + at).family
            known = family and self.find_cursor(at, family, &value)
            found.append((family, to_python(value)) if known else None)
        return found

    def move_cursor(self, int set_index, int family, value):
        """Make the next search in a range set begin behind ``value``."""
        self.set_cursor(set_index, family, from_python(value))

    cpdef int64_t tick(self, int64_t wall_ns) except? -1:
        """Advance the pool's clock to the wall clock's ``wall_ns`` and return its time.

        No two calls return the same time, so the cool-down queue has an order even while the wall
        clock stands still or steps back. The pool's clock does not follow a wall clock that is
        decades ahead, because it could never go back.
        """
        cdef i128 now = <i128>wall_ns + self.offset
        if now <= self.clock or now >> MOST_BITS:  # the wall clock has stepped or stands still
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
# The newest events wait in the network's record in the main database. When that is full, they move
# to the database of events.

cdef enum:
    MOST_WAITING = 8
    MOST_BYTES = 1960  # of the record: LMDB stores a longer value in separate overflow pages
    TRIM = 64  # how many of the oldest events are deleted at a time

# Exported for the documents and the tests.
LEASE_BYTES = sizeof(LeaseHead)
POOL_BYTES = sizeof(PoolNumbers)
EVENTS_WAITING = MOST_WAITING
HISTORY_BYTES = MOST_BYTES

cdef inline uint16_t length_at(const uint8_t* at) noexcept nogil:
    cdef uint16_t length
    memcpy(&length, at, 2)
    return length


cdef int count_packed(const uint8_t* at, Py_ssize_t size) noexcept nogil:
    """Return the number of packed events, each after its length; -1 if the lengths are wrong."""
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

    ``next`` is the number of the next event, ``first`` the number of the oldest event that is kept.
    ``waiting`` are the records of the events that are not in the events database yet, oldest first.
    """

    cdef readonly uint32_t network_id
    cdef readonly bytes prefix, key
    cdef public int64_t next, first
    cdef bytes _packed  # the waiting events, each after its length (2 bytes)
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
            raise errors.StoreCorrupt(
                f"a network's history cannot be read: the bytes are {raw.hex()}",
                hint=errors.CHECK_HINT,
            )
        self.next = numbers.following
        self.first = numbers.first
        self._packed = raw[sizeof(LogNumbers):]
        self._count = count
        self._is_stored = True
        return 0

    cpdef bytes pack(self):
        """Return the record, as the constructor reads it. Raises StoreCorrupt for a bad number."""
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
        """The records of the waiting events, oldest first."""
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
        """Add events. When eight wait, the next moves them to the database. Amortized O(events)."""
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
            else:  # too long for the record even when nothing else waits
                moved.append((key_of_event(self.network_id, self.next), event))
            self.next += 1
        if moved is not None:
            txn.write_many(EVENTS, moved, None)
        return 0

    cdef int settle(self, Transaction txn) except -1:
        """Move the waiting events to the events database."""
        txn.write_many(EVENTS, self.items(), None)
        self._packed = b""
        self._count = 0
        return 0

    cdef int trim(self, Transaction txn, int64_t history, int64_t oldest_ns, Py_ssize_t most) except -1:
        """Delete up to ``most`` old events.

        An event is old when ``history`` newer ones exist, when it happened before ``oldest_ns``, or
        when its record is damaged.
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
        """Drop the waiting events that are too old, once the events database has none left."""
        cdef list waiting = self.waiting
        self.first = self.next - self._count
        while waiting and (self.first < oldest or not is_since(waiting[0], oldest_ns)):
            del waiting[0]
            self.first += 1
        if len(waiting) < self._count:
            self.waiting = waiting
        return 0

    cpdef list items(self):
        """Return the waiting events as (key, value) pairs for the events database."""
        cdef int64_t number = self.next - self._count
        cdef Py_ssize_t at
        cdef list found = self._split()
        for at in range(len(found)):
            found[at] = key_of_event(self.network_id, number + at), found[at]
        return found


# A write transaction ----------------------------------------------------------------------------

cdef object UNKNOWN = object()  # "the old value is not known: read it before you change it"


cdef int settle(tuple promises) except -1:
    """Check every promise, then raise the error of the first that cannot be kept."""
    first = None
    for one in promises:
        error = one.settle()
        first = first or error
    if first is not None:
        raise first
    return 0


cdef enum:
    MOST_NETWORKS = 8  # in the memory that a call passes on
    MOST_PAGES = 8  # of a bitmap that is used again


@cython.final
cdef class Memory:
    """The state of a store that a write transaction has in memory.

    A plain call passes it on to the next transaction of its process.
    """

    cdef dict pages, pools, logs
    cdef dict found  # by a network's encoded name: the result of find()
    cdef dict policies  # by a network's id: the record of its policy in the store
    cdef uint64_t number  # LMDB's number of the last commit that it includes
    cdef PoolState state  # of the pool that was used last
    cdef StoredPages last  # the bitmap that was used last, of this pool and family
    cdef uint32_t last_pool
    cdef int last_family
    cdef object accounts  # the Accounts of the last plain call, or None
    # The Policy that was last found equal to the stored one, and its network.
    cdef object stored_policy
    cdef uint32_t stored_network

    def __cinit__(self):
        self.pages, self.pools, self.logs, self.found, self.policies = {}, {}, {}, {}, {}


cdef Memory NO_MEMORY = Memory()  # of a transaction that has not begun, or has passed its own on


cdef class Transaction(WriteBlock):
    """One write transaction of a store; use it with ``with``.

    Bitmaps, pool numbers and histories are changed in memory and written at the end. Code that
    reads them from LMDB directly has to call :meth:`flush` first.

    Several calls can share a transaction; each is then a :class:`Part` of it, which works like a
    savepoint. For every change in a part an undo note is kept in memory, and when the part fails
    its notes are applied in reverse. Only a failed write (no room, a broken disk) cannot be undone:
    then ``failed`` is set, no later call is served, and the end of the transaction raises the error
    instead of committing.

    If it is ``joined``, it is a batch: every call that its thread makes in the store becomes a part
    of it. Otherwise only calls through a view (``storage/within.py``) become parts.

    ``promises`` belong to a fenced cluster (``network/promise.py``): after the commit they are
    checked, and the error of one that cannot be kept is raised.
    """

    cdef public tuple promises
    cdef readonly bint joined
    cdef Memory _memory
    cdef uint64_t _number  # that LMDB gives its commit; a commit without a change takes none
    cdef bint _has_written  # whether flush() has written a pool's numbers: every change does that
    cdef list _notes  # undo notes of the open parts; None before the first part
    cdef int _parts  # how many parts are open, one inside the other
    cdef long _serial  # changes whenever a part begins or ends
    cdef long _flushes  # counts calls of flush(): undoing has to write again what they have written
    cdef bint _lost_track  # a part has made a change without an undo note
    cdef object _failure  # the error of a failed write, or None

    def __init__(self, store, bint joined=False):
        self.store = store
        self.joined = joined
        self.promises = ()
        self._memory = NO_MEMORY

    @property
    def failed(self):
        """Whether a write has failed, so that the transaction cannot be committed."""
        return self._failure is not None

    def require_open(self):
        """Raise an error when no further call may use the transaction. A subclass defines it."""

    def require_mine(self):
        """Raise an error when the transaction is over or belongs to another thread."""
        # ``store.local`` is thread-local: in another thread it has another transaction, or none.
        mine = getattr(self.store.local, "transaction", None)
        if mine is not self or self._state == _LEFT and self._end_if_left():
            self.store.open_files()  # in a forked child this raises a more precise error
            raise self.store.transaction_is_over()
        self.require_open()

    def rollback(self):
        """Roll the transaction back, outside a ``with`` block."""
        self.__exit__(Exception, None, None)

    cdef int finish(self) except -1:
        return settle(self.promises)

    # What a plain call passes on

    cdef int recall(self) except -1:
        """Use the memory that the last plain call has passed on, or make a new one.

        It is used if no other transaction has committed since: LMDB numbers those that change
        something. When an older file was copied over the open one, LMDB goes on counting, so the
        pool's record is compared, too: each change of a pool changes it.
        """
        cdef Memory memory = self._files.memory
        self._files.memory = None
        self._number = self.txn.id()
        if (
            memory is not None
            and self._number == memory.number + 1
            and self.get(memory.state.key, None, self.databases[MAIN]) == memory.state._stored
        ):
            self._memory = memory
        else:
            self._memory = Memory.__new__(Memory)
        return 0

    cdef void pass_on(self) noexcept:
        cdef Memory memory = self._memory
        if not self._is_plain or len(memory.pools) != 1 or len(memory.found) > MOST_NETWORKS:
            return
        if memory.pools.get(memory.state.pool_id) is not memory.state:
            return
        memory.number = self._number if self._has_written else self._number - 1
        self._memory = NO_MEMORY
        self._files.memory = memory

    # Reading and writing. ``at`` is the index of a database in ``databases``. ``before`` is the old
    # value of the key for the undo note: None if it has none, UNKNOWN if it has to be read.

    cdef inline object look(self, int at, bytes key):
        """Return the value of a key, or None."""
        return self.get(key, None, self.databases[at])

    cdef int write(self, int at, bytes key, bytes value, before) except -1:
        """Write a value, replacing the old one."""
        if self._parts:
            self._note(at, key, before)
        try:
            self.put(key, value, True, True, False, self.databases[at])
        except BaseException as error:
            self._failure = error
            raise
        return 0

    cdef int erase(self, int at, bytes key, before) except -1:
        """Delete a key; return 1 if it existed, else 0."""
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
        """Write a value, replacing the old one."""
        self.write(at, key, value, UNKNOWN)

    def add_to(self, int at, bytes key not None, bytes value not None):
        """Write a value unless the key has one; return whether it was written."""
        return self.add(at, key, value) == 1

    cdef int add(self, int at, bytes key, bytes value) except -1:
        """Write a value unless the key has one; return 1 if it was written, else 0."""
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
        """Write each pair whose key does not exist yet; return (pairs given, pairs written)."""
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
        """Return (key, value) of the keys that exist, in the given order. Sorted is faster."""
        with self.txn.cursor(self.databases[at]) as cursor:
            return cursor.getmulti(keys)

    cdef bytes take(self, int at, bytes key, cursor):
        """Delete a key through a cursor of its database; return its value, or None if missing."""
        try:
            value = cursor.pop(key)
        except BaseException as error:
            self._failure = error
            raise
        if self._parts and value is not None:
            self._notes.append((at, key, value))
        return value

    cdef int write_many(self, int at, list items, list before) except -1:
        """Write (key, value) pairs. ``before`` are the pairs that they replace; None: all new."""
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
        """Delete a key; return whether it existed."""
        return self.erase(at, key, UNKNOWN) == 1

    cpdef bint delete_under(self, int at, cursor) except -1:
        """Delete the key under a cursor and move to the next; return whether there is one."""
        if self._parts:
            self._notes.append((at, *cursor.item()))
        try:
            return cursor.delete()
        except BaseException as error:
            self._failure = error
            raise

    def clear_all(self, int at):
        """Delete every key of a database. O(its pages). A part that does this cannot be undone."""
        self._lost_track = self._parts > 0
        self.txn.drop(self.databases[at], delete=False)

    # State in memory ------------------------------------------------------------------------------

    cpdef StoredPages pages(self, uint32_t pool_id, int family):
        """Return the bitmap of a pool and family, with this transaction's changes."""
        cdef Memory memory = self._memory
        cdef StoredPages found = memory.last
        if found is None or memory.last_pool != pool_id or memory.last_family != family:
            found = memory.pages.get((pool_id, family))
        if memory is NO_MEMORY:
            raise self.store.transaction_is_over()
        if found is not None and found._get_value is not self.get:  # bound to an earlier transaction
            if found._page_count <= MOST_PAGES:
                found.bind(self.get, self.put, self.delete)
            else:  # read what is needed again: flush() visits every page in memory
                found = None
        if found is None:
            found = StoredPages(
                self.get, self.put, self.delete, self.databases[PAGES],
                family_prefix(pool_id, family), address_bytes(family),
            )
            found.journal = self._notes
            memory.pages[pool_id, family] = found
        memory.last, memory.last_pool, memory.last_family = found, pool_id, family
        return found

    def forget_pages(self, uint32_t pool_id):
        """Drop a pool's bitmaps from memory, after their pages were changed directly in LMDB."""
        self._memory.last = None
        for key in [key for key in self._memory.pages if key[0] == pool_id]:
            del self._memory.pages[key]

    cpdef PoolState pool_state(self, uint32_t pool_id):
        """Return the numbers of a pool; every call in the transaction gets the same object."""
        cdef PoolState state = self._memory.pools.get(pool_id)
        if state is None:
            state = self._memory.pools[pool_id] = read_pool_state(self.get, self.databases, pool_id)
        self._memory.state = state
        self._touch_state(state)
        return state

    cpdef EventLog event_log(self, uint32_t network_id):
        """Return the history of a network; every call in the transaction gets the same object."""
        cdef EventLog log = self._memory.logs.get(network_id)
        if log is None:
            log = self._memory.logs[network_id] = read_event_log(self.get, self.databases, network_id)
        self._touch_log(log)
        return log

    cdef inline int _touch_state(self, PoolState state) except -1:
        """Save a pool's numbers for undo, at the first use in the current part.

        The undo note has the packed numbers, or None when the store has none yet.
        """
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
        """Return the result of :func:`find`, which is cached for the transaction."""
        found = self._memory.found.get(key)
        if found is None:
            found = find(self, key)
            if type(found) is tuple:
                self._memory.found[key] = found
        return found

    cdef object policy_of(self, uint32_t network_id):
        """Return the record of a network's policy in the store, cached for the transaction."""
        cdef uint8_t key[7 + ID_BYTES]
        found = self._memory.policies.get(network_id)
        if found is None:
            memcpy(key, b"policy ", 7)
            write32(key + 7, network_id)
            found = self._memory.policies[network_id] = self.look(META, to_bytes(key, 7 + ID_BYTES))
        return found

    def forget_found(self):
        """Drop the cached entries and policies of all networks, because one is being changed."""
        self._memory.accounts = self._memory.stored_policy = None
        self._memory.found.clear()
        self._memory.policies.clear()

    def save(self, kept):
        """Mark a pool's numbers or a network's history as changed, so that flush() writes it."""
        if isinstance(kept, PoolState):
            (<PoolState>kept)._dirty = (<PoolState>kept)._is_stored = True
        else:
            (<EventLog?>kept)._dirty = (<EventLog>kept)._is_stored = True

    def forget(self, kept):
        """Delete a pool's numbers or a network's history, in memory and in the store."""
        self._memory.accounts = None  # they refer to the deleted object
        if isinstance(kept, PoolState):
            self._memory.pools.pop(kept.pool_id, None)
            self.erase(MAIN, kept.key, UNKNOWN)
        else:
            self._memory.logs.pop(kept.network_id, None)
            self.erase(MAIN, kept.key, UNKNOWN)

    cpdef flush(self):
        """Write the bitmaps, numbers and histories that changed in memory to LMDB's transaction."""
        cdef PoolState state
        cdef EventLog log
        if self._failure is not None:
            raise self._failure
        self._flushes += 1
        try:
            for pages in self._memory.pages.values():
                (<StoredPages>pages).flush()
            for state in self._memory.pools.values():
                if state._dirty:
                    state._stored = state.pack()
                    self.put(state.key, state._stored, True, True, False, self.databases[MAIN])
                    state._dirty = False
                    self._has_written = True
            for log in self._memory.logs.values():
                if log._dirty:
                    self.put(log.key, log.pack(), True, True, False, self.databases[MAIN])
                    log._dirty = False
        except BaseException as error:
            self._failure = error
            raise

    def _check(self):
        """Assert that the state in memory equals LMDB's. O(size of that state + cool-down queues).

        A pool's clock may be ahead in memory: a call that changes nothing reads the time, but does
        not save it.
        """
        cdef PoolState state
        cdef EventLog log
        self.flush()
        assert self._parts >= 0, f"{self._parts} parts are open"
        assert not self._notes or self._parts, f"{len(self._notes)} notes of no part"
        for pages in self._memory.pages.values():
            (<StoredPages>pages).bind(self.get, self.put, self.delete)
            (<StoredPages>pages)._check()
        for state in self._memory.pools.values():
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
        for log in self._memory.logs.values():
            stored = EventLog(log.network_id, self.look(MAIN, log.key))
            assert log.pack() == stored.pack(), f"events of network {log.network_id} were not saved"
        for key, found in self._memory.found.items():
            assert find(self, key) == found, f"the entry of {key} is stale"
        if self._memory.accounts is not None:
            (<Accounts>self._memory.accounts)._check(self)
        for number, packed in list(self._memory.policies.items()):
            del self._memory.policies[number]
            assert self.policy_of(number) == packed, f"the policy of network {number} is stale"

    cdef void note_plain(self) noexcept:
        """Note that a plain call has ended, and that nothing else has run in the transaction.

        If such a transaction takes less than ``BRIEF_NS``, the commit does not check again that the
        data file is still the store's. If it has used one pool, it passes its memory on.
        """
        self._is_plain = self._notes is None

    # Parts ----------------------------------------------------------------------------------------

    cdef Py_ssize_t begin_part(self) except -1:
        """Begin a part; return where its undo notes begin, for :meth:`end_part`."""
        if fastipam_lock_is_forked(self._files.lock._lock):
            self.store.open_files()  # raises: the transaction is the parent's
        if self._failure is not None:
            raise self.store.fault(self._failure)
        if self._notes is None:
            self._notes = []
            for pages in self._memory.pages.values():
                (<StoredPages>pages).journal = self._notes
        elif not self._parts:
            self._lost_track = False
        self._parts += 1
        self._serial += 1
        self._is_plain = False
        return len(self._notes)

    cdef int end_part(self, Py_ssize_t begun, bint well) except -1:
        """End a part; undo its changes unless ``well``. ``begun`` is from :meth:`begin_part`."""
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
            self._notes.clear()  # this also breaks the cycle of the list and the bitmaps
        return 0

    cdef int _take_back(self, tuple note) except -1:
        cdef object kept = note[0]
        if isinstance(kept, StoredPages):
            kept.undo(note[1], note[2])
        elif isinstance(kept, PoolState):
            if note[1] is None:
                self._forget_new(self._memory.pools, kept.pool_id, kept.key)
            else:
                (<PoolState>kept)._read(note[1])
                (<PoolState>kept)._dirty = note[2] or note[3] != self._flushes
        elif isinstance(kept, EventLog):
            if note[1] is None:
                self._forget_new(self._memory.logs, kept.network_id, kept.key)
            else:
                (<EventLog>kept)._read(note[1])
                (<EventLog>kept)._dirty = note[2] or note[3] != self._flushes
        elif note[2] is None:
            self.delete(note[1], b"", self.databases[<int>kept])
        else:
            self.put(note[1], note[2], True, True, False, self.databases[<int>kept])
        return 0

    cdef int _forget_new(self, dict known, uint32_t number, bytes key) except -1:
        """Undo the creation of a record: in memory, and in LMDB if a flush has written it."""
        known.pop(number, None)
        self.delete(key, b"", self.databases[MAIN])
        return 0


@cython.final
cdef class Part:
    """One call inside a transaction, like a savepoint: if it fails, its changes are undone."""

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
        """End the part. ``error`` is the exception with which its call failed, or None."""
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


# Calls, and group commit ------------------------------------------------------------------------
#
# In a durable store a commit costs one sync, however many calls are in it. So the thread that has
# the writer's lock also runs the calls of the threads of its process that wait for the lock (the
# guests): after its own call and before the commit, in the order of the queue, each as a part. A
# waiting thread gets its result after the commit. It never gets an error this way: if its call or
# the commit has failed, it runs the call again itself, alone, and raises whatever happens then.

cdef enum:
    MOST_GUESTS = 64
    GUESTS_NS = 5_000_000  # after this time no further guest is taken: the others wait to commit


cdef class Call:
    """A change of the store, to be run in a transaction. A subclass defines it in :meth:`make`."""

    cdef object _result  # the result, if another thread's transaction has run the call
    cdef tuple _promises  # the promises that the call has made there

    cpdef make(self, txn):
        """Run the call in a transaction, and return its result.

        It may run several times, and only the last run counts. So it must change nothing outside
        the transaction. When it raises, its changes are undone. It should be short, because other
        threads wait for the same commit.
        """
        raise NotImplementedError

    def make_part(self, Transaction whole not None):
        """Run the call as a part of a transaction, and return its result."""
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
        """Run the call as a part of another thread's transaction, and store its result.

        Its promises are stored too, not added to the transaction: its own thread checks them.
        """
        cdef tuple before = txn.promises
        txn.promises = ()
        try:
            self._result = self.make_part(txn)
            self._promises = txn.promises
        finally:
            txn.promises = before
        return 0


cdef int serve_others(Transaction txn) except -1:
    """Run the calls of threads that wait for the lock. Their Exceptions are not raised here."""
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
            pass  # its own thread runs it again
        if fastipam_monotonic_ns() > end_ns:
            break
    return 0


def perform(store, kind, bint shares, Call call not None):
    """Run a call in a transaction, commit, and return the call's result.

    ``kind(store)`` makes the transaction. If the thread has a batch, the call becomes a part of it
    and is committed with it. If ``shares``, another thread of this process may run the call in its
    own transaction. Raises the errors of the call and of the transaction.
    """
    # Signal handlers run between bytecodes, so none runs between two lines of this native code, and
    # a transaction that has begun is always ended.
    cdef Transaction txn
    before = getattr(store.local, "transaction", None)
    if before is not None and (<Transaction?>before).joined and (<Transaction>before)._state == _OPEN:
        return call.make_part(before)
    while True:
        txn = kind(store)
        if shares:
            txn._call = call
        if txn.__enter__() is None:
            break
        try:
            result = call.make(txn)
            # The main thread serves no guests: it runs the signal handlers, and an exception that a
            # handler raises during a guest's call would be lost.
            if shares and not fastipam_is_main_thread(txn._thread):
                serve_others(txn)
        except BaseException as error:
            try:
                txn.__exit__(type(error), error, None)
            finally:
                txn.make_sure_it_ends()
            raise
        try:
            txn.__exit__(None, None, None)
        except BaseException as error:
            txn.make_sure_it_ends()
            if not isinstance(error, Exception) or txn._committed or not txn._guests:
                raise
            shares = False  # once more without guests: one of them may have caused the error
            continue
        return result
    settle(call._promises)
    return call._result


# Reading, alike for a write transaction and for a snapshot.

def pages_of(block, uint32_t pool_id, int family):
    """Return the bitmap of a pool and family in a snapshot. It is read-only."""
    database = block.databases[PAGES]
    prefix = family_prefix(pool_id, family)
    return StoredPages(block.get, None, None, database, prefix, address_bytes(family))


cdef bytes family_prefix(uint32_t pool_id, int family):
    """Return the prefix of the keys of all bitmap pages of a pool and family."""
    cdef uint8_t out[ID_BYTES + 1]
    write32(out, pool_id)
    out[ID_BYTES] = family
    return to_bytes(out, ID_BYTES + 1)


cdef PoolState read_pool_state(get, tuple databases, uint32_t pool_id):
    return PoolState(pool_id, get(main_key(c"P", pool_id), None, databases[MAIN]))


cdef EventLog read_event_log(get, tuple databases, uint32_t network_id):
    return EventLog(network_id, get(main_key(c"N", network_id), None, databases[MAIN]))


# A network in a transaction ---------------------------------------------------------------------

# A release adds one address to the cool-down queue. An assignment frees up to this many addresses
# whose cool-down is over, so the queue shrinks, and no single call has to free very many.
cdef enum:
    EXPIRED_BESIDE = 4


def find(block, bytes key not None):
    """Look up a network: return (network id, pool id, text of the pool's ranges, pool's name).

    ``key`` is the network's encoded name; the pool's name is encoded, too. Return None when the
    store has no such network, and the entry as bytes when it has another schema or is damaged.
    """
    cdef bytes entry, pool
    cdef tuple databases = block.databases
    found = block.get(key, None, databases[NETWORKS])
    if found is None:
        return None
    entry = found
    if PyBytes_GET_SIZE(entry) <= ENTRY_NAME or bytes_of(entry)[0] != _SCHEMA:
        return entry
    name = to_bytes(bytes_of(entry) + ENTRY_NAME, PyBytes_GET_SIZE(entry) - ENTRY_NAME)
    found = block.get(name, None, databases[POOLS])
    if found is None:
        return entry
    pool = found
    if PyBytes_GET_SIZE(pool) < ID_BYTES or read32(bytes_of(pool)) != read32(bytes_of(entry) + ENTRY_POOL):
        return entry
    try:
        text = PyUnicode_DecodeUTF8(
            PyBytes_AS_STRING(pool) + ID_BYTES, PyBytes_GET_SIZE(pool) - ID_BYTES, NULL
        )
    except UnicodeDecodeError:
        return entry
    return read32(bytes_of(entry) + ENTRY_NETWORK), read32(bytes_of(pool)), text, name


cdef bint take_in(StoredPages pages, intervals, u128* found) except -1:
    """Take the first free address in these intervals; return whether there was one."""
    for low, high in intervals:
        if pages.take_next(from_python(low), from_python(high), found):
            return True
    return False


cdef class Accounts:
    """The records of a network and its pool in one write transaction.

    After changes, call :meth:`save` before the transaction ends. ``text`` is the text of the pool's
    ranges in the store. ``is_foreign`` says that the caller's ranges differ from those: they are a
    container's own, or other networks share the pool. ``wall_ns`` is the time of the last
    :meth:`tick`, by the wall clock in nanoseconds: the records that are written now get it.
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
    cdef bytes _key  # the network's encoded name; set by enter()
    cdef object _given  # the caller's ranges, or None
    cdef object _stored  # the ranges of ``text``, or None: not parsed yet
    cdef int64_t _cooldown_ns, _history  # from the policy
    cdef bytes _owner_name, _owner_key  # of the owner that was looked up last
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
        self._set_ranges(text, None)

    def remember(self, str text, pool):
        """Set the pool's ranges in the store: ``text``, and ``pool`` parsed from it, or None."""
        self._set_ranges(text, pool)

    cdef int _set_ranges(self, str text, pool) except -1:
        self.text = text
        self._is_cut = "@" in text
        given = self._given = self.network.pool
        self.is_foreign = given is not None and given.text != text
        self._stored = pool if given is None or self.is_foreign else given
        return 0

    # The accounts of a plain call are kept for the next one. Meanwhile they refer to no transaction:
    # in the cycle of transaction, memory and accounts, a transaction that nobody ends would keep the
    # writer's lock until the garbage collector runs.

    cdef void detach(self) noexcept:
        """Drop the references to the transaction, its store and the network."""
        self.txn = self.store = self.network = None

    cdef bint attach(self, Transaction txn, network) except -1:
        """Use these accounts in a transaction, if they are those of a network.

        Return False if the network has another name, other ranges or another policy, if a call of
        the transaction uses them, and while it is in doubt whether the machine has rebooted.
        """
        if (
            self.txn is not None
            or txn.store.boot_doubt
            or self._given is not network.pool
            or self.policy is not network.policy
            or self._key != network._key
        ):
            return False
        txn._memory.state = self.state
        txn._touch_state(self.state)
        if self._log is not None:
            txn._touch_log(self._log)
        self._boot = txn.store.boot
        self.txn, self.store, self.network = txn, txn.store, network
        return True

    cdef int _check(self, Transaction txn) except -1:
        found = find(txn, self._key)
        assert found == (self.network_id, self.pool_id, self.text, found[3]), f"{self.name} is stale"
        assert self.state is txn._memory.pools.get(self.pool_id), f"numbers of {self.name} are stale"
        assert not self._events, f"{self.name} has {len(self._events)} events that were not saved"
        return 0

    # For the plain case

    cdef bint is_to_assign(self) except -1:
        """Return whether an ADD can be plain in this network.

        It is not when nothing was assigned in the pool yet, when the pool, the ranges or the policy
        differ from the store's, and when the ranges are cut into blocks of a cluster.
        """
        pool_key = self.network.pool_key
        if self.is_foreign or self._is_cut or not self.state.generation:
            return False
        if pool_key is not None and self.txn.find(self._key)[3] != pool_key:
            return False
        return not self.network._remember or self.remembers_policy()

    cdef bint is_plain_for(self, Requester owner) except -1:
        """Return whether an owner has no address, and neither it nor the pool reservations."""
        if self.state.kept or self.state.reserved or (self.policy.sticky_s and owner.has_pod()):
            return False
        return self.txn.look(OWNERS, self._key_of_owner(owner.name)) is None

    # For the subclass to define: what few calls need.

    def settle_boot(self):
        """Decide whether the machine has rebooted, if that is in doubt."""
        raise NotImplementedError

    def search_order(self, index, range_set):
        """Yield the intervals of a range set in the order in which they are searched."""
        raise NotImplementedError

    def require_certain(self, range_set, wanted):
        """Raise PoolExhausted when this node may have lost the blocks of a range set."""
        raise NotImplementedError

    def choose_more(self, index, range_set, values, wanted):
        """Add addresses that are not free to the free ``values``, up to ``wanted``; return all."""
        raise NotImplementedError

    def kept_for(self, owner):
        """Return the addresses that are reserved for an owner, as (family, address) pairs."""
        raise NotImplementedError

    def first_kept(self, range_set, kept):
        """Return the first address in ``kept`` that a range set may assign now, or None."""
        raise NotImplementedError

    def acquire(self, index, range_set, value, owner):
        """Take the address that the request names. Raises AddressInUse, AddressNotInRange."""
        raise NotImplementedError

    def expire_kept(self, limit):
        """End up to ``limit`` sticky reservations that have expired; return how many."""
        raise NotImplementedError

    def keep_or_hold(self, key, raw, address, together):
        """Keep a released address reserved if it has to be; return whether it is."""
        raise NotImplementedError

    def take_place(self, key, raw, family, value):
        """Replace the record of a cooling address by its new lease ``raw``. Raises StoreCorrupt."""
        raise NotImplementedError

    def note_cleared(self, family, value):
        """Update counters and lists of ranges and blocks after an address has become free."""
        raise NotImplementedError

    def damaged_owner(self, name, address):
        """Return the error for an entry that lists an address without a lease of this owner."""
        raise NotImplementedError

    # Numbers, clock, events

    @property
    def log(self):
        """The network's history. It is read when it is first used."""
        return self._read_log()

    cdef EventLog _read_log(self):
        if self._log is None:
            self._log = self.txn.event_log(self.network_id)
        return self._log

    @property
    def stored(self):
        """The pool's ranges in the store. An address not in them counts as ``outside``."""
        if self._stored is None:
            self._stored = self.network._ranges_of(self.text)
        return self._stored

    cdef int64_t now(self) except? -1:
        clock = self.store.clock
        return wall_ns() if clock is time_ns else clock()

    cpdef int64_t tick(self) except? -1:
        """Read the wall clock, advance the pool's clock to it and return the pool's time."""
        self.wall_ns = self.now()
        return self.state.tick(self.wall_ns)

    def note(self, int kind, int64_t generation, tuple address not None, bytes texts not None):
        """Record an event in the network's history, if the network keeps one."""
        self._note(kind, generation, address[0], from_python(address[1]), bytes_of(texts), len(texts))

    cdef int _note(
        self, int kind, int64_t generation, int family, u128 value, const uint8_t* texts, Py_ssize_t size
    ) except -1:
        if self._history:
            self._events.append(event_of(self.wall_ns, kind, generation, family, value, texts, size))
        return 0

    cdef int _note_lease(self, int kind, bytes raw, int family, u128 value) except -1:
        """Record an event of the lease that has this record."""
        return self._note(
            kind, head_of(raw).generation, family, value,
            bytes_of(raw) + sizeof(LeaseHead), PyBytes_GET_SIZE(raw) - sizeof(LeaseHead),
        )

    cpdef int save(self) except -1:
        """Pass the changed counters, cursors and events to the transaction. Amortized O(events).

        The end of the transaction writes them.
        """
        cdef EventLog log
        cdef int64_t history = self._history
        cdef Py_ssize_t many = len(self._events)
        self.state._dirty = self.state._is_stored = True
        if not many:
            return 0
        log = self._read_log()
        if many > history:  # this call alone has more events than the history keeps
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
        """Return whether the store already has this policy as the network's."""
        cdef Memory memory = self.txn._memory
        cdef object packed
        if memory.stored_policy is self.policy and memory.stored_network == self.network_id:
            return True
        packed = self.policy.stored
        if not packed or self.policy.configured is not None:
            return False
        if self.txn.policy_of(self.network_id) != packed:
            return False
        memory.stored_policy, memory.stored_network = self.policy, self.network_id
        return True

    # Owners and their leases

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
        """Write an owner's entry, which lists its addresses."""
        self.txn.write(OWNERS, self._key_of_owner(name), pack_held(self.pool_id, addresses), UNKNOWN)

    cpdef list leases_of(self, bytes name, held):
        """Return (key, lease record, address) of each address in ``held``, which an owner has.

        Raises StoreCorrupt when one is not assigned to this owner.
        """
        cdef list found = []
        for address in held:
            key = key_of(self.pool_id, address[0], from_python(address[1]))
            found.append((key, self._lease_of(name, key, address), address))
        return found

    cdef bytes _lease_of(self, bytes name, bytes key, tuple address):
        raw = self.txn.look(LEASES, key)
        if raw is None or not is_of_owner(raw, name):
            raise self.damaged_owner(name, address)
        return raw

    cpdef int number_of(self, int family, value) except -1:
        """Return the number of the pool's range set that contains an address, or NO_SET."""
        cdef u128 wanted = from_python(value)
        cdef int index = 0
        try:
            sets = self.stored.sets
        except errors.StoreCorrupt:  # a DEL has to release even when the ranges' text is damaged
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
        """Free addresses whose cool-down is over, and end sticky reservations that have expired.

        Up to ``limit`` of each; return how many were due. O(limit + number of sets).
        """
        cdef Py_ssize_t due = self.expire_kept(limit) if self.state.kept else 0
        return due + self._expire_cooled(limit) if self.state.cooling else due

    cdef Py_ssize_t _expire_cooled(self, Py_ssize_t limit) except -1:
        cdef PoolState state = self.state
        cdef int64_t due = state.clock - self._cooldown_ns
        cdef Py_ssize_t left = limit
        cdef int64_t released, first = state.clock  # every later release has a later time
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
        """Free an address whose key in the cool-down queue was deleted."""
        cdef bytes key = key_of(self.pool_id, family, from_python(value))
        cdef const LeaseHead* head
        raw = self.txn.look(LEASES, key)
        if raw is None:
            return 0
        head = head_of(raw)
        # If the lease disagrees, the queue is damaged: then no owner must lose its address.
        if head.state == _COOLING and head.released == <uint64_t>released:
            self.state.cooling -= 1
            self.txn.erase(LEASES, key, raw)
            self.clear(family, value)
        return 0

    cpdef int cool(self, bytes key, bytes raw, int family, value) except -1:
        """Begin the cool-down of an address at the current time of the pool's clock."""
        # The set that contains the address now: the ranges may have changed since its assignment.
        cdef int index = self.number_of(family, value)
        self.state.cooling += 1
        self.txn.write(LEASES, key, self._cooled(raw, index), raw)
        queued = queue_key(self.pool_id, index, self.state.clock, family, from_python(value))
        self.txn.write(COOLDOWN, queued, b"", None)
        return 0

    cdef bytes _cooled(self, bytes raw, int index):
        """Return the lease's record, changed to cooling from the current time on."""
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

        Free addresses come first, then addresses whose sticky reservation has expired, then the
        addresses that have cooled longest. ``index`` is the place of the set's cursor. Amortized
        O(wanted). Raises PoolExhausted, also when it is in doubt that this node owns its blocks.
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
        """Take the next free address behind the cursor of a range set, wrapping round.

        Set ``found`` to it, and return False if there is none.
        """
        cdef tuple intervals = range_set.intervals
        cdef u128 cursor = 0, low = 0, high = 0
        cdef Py_ssize_t count = len(intervals), at = 0
        if self.state.find_cursor(index, range_set.family, &cursor):
            while at < count:
                low, high = from_python(intervals[at][0]), from_python(intervals[at][1])
                if low <= cursor <= high:
                    break
                at += 1
            else:  # the cursor is in an address that is excluded or outside the ranges now
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
        """Add to ``outside`` the taken addresses that are not in the pool's stored ranges."""
        if self.is_foreign:
            self.state.outside += sum([not self.stored.holds(family, value) for value in values])

    cpdef int set_of(self, int index, int family, value) except -1:
        """Return the number of the pool's range set that contains an address, for its lease.

        ``index`` is the number of the set in the caller's ranges, which may differ.
        """
        return self.number_of(family, value) if self.is_foreign else index

    cdef int _place_of(self, int index, range_set) except -1:
        """Return the place of a set's cursor; ``index`` is the set's number in the caller's ranges.

        Networks that share a pool have their own ranges, but they use the cursors of the pool's
        sets.
        """
        cdef int place = index
        if self.is_foreign and range_set.intervals and not range_set.block_length:
            place = self.number_of(range_set.family, range_set.intervals[0][0])
        return index if place == NONE_SET else place

    cpdef list give(self, Requester owner, pool, wanted=None):
        """Assign an address of every range set to an owner that has none; return the leases.

        ``wanted`` has for each set a requested address, or None. Addresses that are reserved for
        the owner come first. When this raises, the caller must undo its transaction or part.
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
        cdef LeaseFields only
        if len(leases) == 1:
            only = leases[0]
            entry = key_of(self.pool_id, only.family, from_python(only.value))
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
        """Write the lease of an address, and return it. Its time is that of the last :meth:`tick`.

        ``index`` is the number of the pool's range set, ``its_range`` the range that contains the
        address, or None, and ``kind`` the kind of the event.
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
        """Write the lease of a taken address, count it, record the event; return its record."""
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
        """Set the fields that are the same in all leases of this call."""
        memset(head, 0, sizeof(LeaseHead))
        head.state = _ASSIGNED
        head.boot = self._boot
        head.allocated_ns = self.wall_ns
        head.network_id = self.network_id

    # Releasing

    cpdef list release(self, bytes name, int kind=2, newest=None):
        """Release the addresses of an owner and return them.

        Release none if the generation of one lease is greater than ``newest``. ``kind`` is the kind
        of the events. A reserved or sticky address stays reserved for its owner, every other cools
        down. Raises StoreCorrupt when a lease names another owner.
        """
        cdef list held, found
        cdef bytes key = self._key_of_owner(name), raw
        entry = self.txn.look(OWNERS, key)
        if entry is None:
            return []
        held = read_held(entry, self.pool_id)
        if len(held) == 1:  # then its lease's key is the entry
            found = [(entry, self._lease_of(name, entry, held[0]), held[0])]
        else:
            found = self.leases_of(name, held)
        if newest is not None:
            for _, raw, _ in found:
                if head_of(raw).generation > newest:
                    return []
        self._release_found(key, entry, found, held, kind)
        return held

    cdef int _release_found(self, bytes key, bytes entry, list found, list held, int kind) except -1:
        """Release the leases ``found``, which must be all that the owner's ``entry`` lists."""
        cdef bytes lease_key, raw
        self.tick()
        for lease_key, raw, address in found:
            self._give_back(lease_key, raw, address, held)
            self._note_lease(kind, raw, address[0], from_python(address[1]))
        self.txn.erase(OWNERS, key, entry)
        self.save()
        return 0

    cdef int _give_back(self, bytes key, bytes raw, tuple address, list together) except -1:
        """Release an assigned address: keep it reserved, begin its cool-down, or free it.

        ``together`` are all addresses that the owner releases now.
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

    # Many owners at once

    cpdef list give_many(self, list owners, pool):
        """Assign an address of every range set to each of these owners, which have none.

        They get the same addresses as by single calls in their order, except that reserved
        addresses are not considered. Return for each range set the leases in the order of the
        owners, or None when an owner has an entry already: then the caller must undo its
        transaction or part, as when this raises. O(owners). Raises PoolExhausted.
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
        """Write the entries of new owners, sorted by key; return False if one exists already."""
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

        Return the number of released addresses, and the names that had none. O(addresses). Records
        are read and written sorted by key, so that neighbours are on the same LMDB page. Raises
        StoreCorrupt when a lease names another owner: the caller must undo its transaction or part.
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
        """Release the owners one by one, because an address may have to stay reserved."""
        cdef Py_ssize_t released = 0
        for key, raw, name in entries:
            self.txn.write(OWNERS, key, raw, None)
            released += len(self.release(name, kind))
        return released

    cdef list _leases_of_many(self, list entries):
        """Return (key, record) of the owners' leases in address order.

        ``entries`` has (key, value, owner's name) of each owner's entry. Return None if an address
        may have to stay reserved. Raises StoreCorrupt when a lease names another owner.
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
            if head_of(raw).sticky_s:  # from an earlier policy of the network
                return None
        return leases

    cdef list _keys_in(self, bytes entry):
        """Return the lease keys in an owner's entry. Raises StoreCorrupt when it is damaged."""
        return [
            key_of(self.pool_id, family, from_python(value))
            for family, value in read_held(entry, self.pool_id)
        ]

    cdef int _cool_many(self, list leases) except -1:
        """Begin the cool-down of addresses, as :meth:`cool` does for one."""
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
        """Return the number of the set that contains ``low``; it contains all up to ``high``."""
        cdef object value = to_python(low[0])
        cdef int index = self.number_of(family, value)
        if index != NONE_SET:
            for start, end in self.stored.sets[index].intervals:
                if start <= value <= end:
                    high[0] = from_python(end)
        return index

    cdef int _free_many(self, list leases) except -1:
        """Free addresses of a network without cool-down."""
        cdef bytes key, raw
        cdef int family
        for key, raw in leases:
            family = bytes_of(key)[ID_BYTES]
            self.txn.erase(LEASES, key, raw)
            self.clear(family, to_python(read_address(bytes_of(key) + ID_BYTES + 1, family)))
        return 0

    cdef int _note_released(self, list leases, int kind) except -1:
        """Record the releases in the history, or as many of the last as it keeps."""
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
# These functions return None for a call that is not plain: the Python code of ``fastipam.network``
# then does it, with the methods above.

cpdef Accounts enter(Transaction txn, network):
    """Return the accounts of a network; None if Python code has to do something first.

    That is when the network is not in the store or its entry is damaged, when it is in doubt
    whether the machine has rebooted, and when leases of an earlier boot are not released yet.
    """
    cdef Accounts accounts
    if txn.store.boot_doubt:
        return None
    found = txn.find(network._key)
    if type(found) is not tuple:
        return None
    accounts = network.ledger_type(txn, network, found[0], found[1], found[2])
    accounts._key = network._key
    return accounts if accounts.state.swept == accounts._boot else None


cdef Accounts enter_again(Transaction txn, network):
    """Do as :func:`enter`, with the accounts of the last plain call if they are of this network.

    The caller has to call :meth:`Accounts.detach` when it has finished.
    """
    cdef Memory memory = txn._memory
    cdef Accounts accounts = memory.accounts
    if accounts is None or not accounts.attach(txn, network):
        memory.accounts = accounts = enter(txn, network)
    elif accounts.state.swept != accounts._boot:
        accounts.detach()
        return None
    return accounts


cpdef Accounts enter_to_assign(Transaction txn, network):
    """Do as :func:`enter`, and return None also when an ADD is not plain in this network."""
    cdef Accounts accounts = None if network.pool is None else enter(txn, network)
    return accounts if accounts is not None and accounts.is_to_assign() else None


cdef list assign_plain(Transaction txn, network, Requester owner):
    """Assign an address of every range set to a new owner, and return the leases.

    Return None, with nothing changed, when the network or the call is not plain: the owner has
    addresses, the pool has reservations, or the lease would be sticky. Raises the errors of
    :meth:`Accounts.give`.
    """
    cdef Accounts accounts = None if network.pool is None else enter_again(txn, network)
    cdef list leases = None
    if accounts is None:
        return None
    try:
        if accounts.is_to_assign() and accounts.is_plain_for(owner):
            leases = accounts.give(owner, network.pool)
    except BaseException:
        txn._memory.accounts = None
        raise
    finally:
        accounts.detach()
    return leases


cdef list release_plain(Transaction txn, network, bytes name):
    """Release the addresses of an owner and return them; None when Python code has to do it."""
    cdef Accounts accounts = enter_again(txn, network)
    cdef list held
    if accounts is None:
        return None
    try:
        held = accounts.release(name)
    except BaseException:
        txn._memory.accounts = None
        raise
    finally:
        accounts.detach()
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
    """The call of :meth:`fastipam.Network.allocate`. Its result is that of ``_try_assign``.

    The plain case is tried first, unless the request names an address.
    """

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
            (<Transaction>txn).note_plain()
            return join(leases)
        return self._network._try_assign(
            txn, self._owner, self._wanted, self._existing, self._promised
        )


@cython.final
cdef class Release(Call):
    """The call of :meth:`fastipam.Network.release`. Its result is a list of (family, address).

    The constructor raises ConfigError when the store cannot record this owner.
    """

    cdef object _network, _container_id, _ifname
    cdef bytes _name

    def __init__(self, network, container_id, ifname):
        check_owner(container_id, ifname)
        self._network, self._container_id, self._ifname = network, container_id, ifname
        self._name = owner_name(container_id, ifname)

    cpdef make(self, txn):
        cdef list held = release_plain(txn, self._network, self._name)
        if held:
            (<Transaction>txn).note_plain()
            return held
        if held is None:
            held = self._network._release(txn, (self._container_id, self._ifname))
        if not held and self._ifname:
            # A lease that was imported from an old host-local tree names no interface: it belongs
            # to the whole container, and is released with the first interface that has no lease.
            held = self._network._release(txn, (self._container_id, ""))
        return held


include "_accept.pxi"
include "_request.pxi"
include "_serve.pxi"
