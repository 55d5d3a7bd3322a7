# Read requests in the agent: split the data that arrives into frames, and parse the frame of a
# plain ADD or DEL.
#
# ``agent/protocol.py`` defines a frame. ``cni/environment.py`` has the rules for the variables, and
# the errors for a request that breaks them. This code accepts a subset of the valid requests, with
# the same meaning. Any other request is "not plain", which is no error: Python serves it. Each
# limit here names the rule that it mirrors. Only the owner's texts are copied, because a lease has
# them in a row.

from cpython.object cimport PyObject
from libc.stdint cimport UINT32_MAX, UINT64_MAX, uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy, memset

cdef extern from "<arpa/inet.h>" nogil:
    uint32_t ntohl(uint32_t number)

cdef extern from "<string.h>" nogil:
    const void* memmem(const void* whole, size_t size, const void* part, size_t part_size)

cdef extern from "Python.h":
    ctypedef struct PyTypeObject:
        object (*tp_new)(PyTypeObject* kind, object arguments, PyObject* keywords)
    PyTypeObject PyTuple_Type
    char* PyByteArray_AS_STRING(object array)
    Py_ssize_t PyByteArray_GET_SIZE(object array)
    int PyByteArray_Resize(object array, Py_ssize_t size) except -1
    object PyUnicode_DecodeFSDefaultAndSize(const char* text, Py_ssize_t size)

cdef enum:
    _NO_COMMAND, _ADD, _DEL

# The variables that are read. A request with the last one, _OVERRIDE, is not plain.
cdef enum:
    _COMMAND, _CONTAINERID, _IFNAME, _NETNS, _ARGS, _PATH, _STARTED, _SEEN, _OVERRIDE
    _VARIABLES

cdef enum:
    _FRAME_HEADER = 12  # bytes: protocol.REQUEST
    _ANSWER_HEADER = 16  # bytes: protocol.ANSWER
    _LARGEST_VARIABLES = 256 << 10  # bytes: protocol.LARGEST_VARIABLES
    _LARGEST_INPUT = (4 << 20) + 1  # bytes: protocol.LARGEST_INPUT
    _MOST_VARIABLES = 16 << 10  # bytes; protocol allows more
    _MOST_INPUT = 16 << 10  # bytes; services.LARGEST_KNOWN: a larger configuration is not kept
    _LONGEST_IFNAME = 15  # bytes: reader.LONGEST_IFNAME
    _MOST_DIGITS = 20  # environment._LONGEST_NUMBER
    _MOST_TEXTS = 1024  # bytes of all texts of a lease; a record may have more
    _MOST_DEPTH = 16  # of a value; Python's decoder goes far deeper
    _MOST_NUMBER = 18  # digits; Python refuses thousands

cdef struct Text:
    const char* at
    size_t size


# Frames and answers ------------------------------------------------------------------------------

cdef class Frame:
    """A request as it has arrived: a header, variables up to the offset ``end``, and the input.

    ``peer`` is the client's process id. ``accepted_ns`` is the wall-clock time at which the
    connection was accepted or the request began to arrive.
    """

    cdef readonly bytes frame
    cdef readonly Py_ssize_t end
    cdef readonly long peer
    cdef readonly int64_t accepted_ns

    def __init__(self, bytes frame not None, Py_ssize_t end, long peer, int64_t accepted_ns):
        self.frame, self.end, self.peer, self.accepted_ns = frame, end, peer, accepted_ns

    @property
    def stdin(self):
        """The input: what the launcher has read from standard input."""
        return self.frame[self.end:]

    @property
    def command(self):
        """``CNI_COMMAND``, or empty."""
        return self.text(b"CNI_COMMAND")

    def text(self, bytes name not None):
        """Return the first value of a variable, as ``os.environ`` would have it, or "". O(bytes)."""
        cdef const char* at = PyBytes_AS_STRING(self.frame) + _FRAME_HEADER
        cdef const char* end = PyBytes_AS_STRING(self.frame) + self.end
        cdef Py_ssize_t size = PyBytes_GET_SIZE(name)
        cdef const char* stop
        while at < end:
            stop = <const char*>memchr(at, 0, end - at)
            if stop == NULL:
                stop = end
            if stop - at > size and at[size] == c'=' and memcmp(at, PyBytes_AS_STRING(name), size) == 0:
                at += size + 1
                return PyUnicode_DecodeFSDefaultAndSize(at, stop - at)
            at = stop + 1
        return ""


def take_frame(bytearray incoming not None, kind, long peer, int64_t accepted_ns):
    """Cut the first request off ``incoming`` and return it, or None while it is incomplete.

    Return None also when it is not a request: see protocol.request_size. ``kind`` is a subclass of
    :class:`Frame`; its ``__init__`` is not called.
    """
    cdef Py_ssize_t there = PyByteArray_GET_SIZE(incoming), end, size
    cdef const char* at = PyByteArray_AS_STRING(incoming)
    cdef Frame taken
    if there < _FRAME_HEADER or memcmp(at, b"FIP1", 4) != 0:
        return None
    end, size = size_at(at + 4), size_at(at + 8)
    if end > _LARGEST_VARIABLES or size > _LARGEST_INPUT:
        return None
    end += _FRAME_HEADER
    size += end
    if there < size:
        return None
    taken = <Frame?>(<PyTypeObject*>kind).tp_new(<PyTypeObject*>kind, (), NULL)
    taken.frame = PyBytes_FromStringAndSize(at, size)
    taken.end, taken.peer, taken.accepted_ns = end, peer, accepted_ns
    if there == size:  # always, when the client is the launcher
        PyByteArray_Resize(incoming, 0)
    else:
        del incoming[:size]
    return taken


def pack_answer(uint32_t status, bytes output not None, bytes messages not None=b""):
    """Return an answer as the launcher expects it."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(output), more = PyBytes_GET_SIZE(messages)
    cdef bytes packed = PyBytes_FromStringAndSize(NULL, _ANSWER_HEADER + size + more)
    cdef char* out = PyBytes_AS_STRING(packed)
    cdef uint32_t[3] numbers
    numbers[0], numbers[1], numbers[2] = ntohl(status), ntohl(<uint32_t>size), ntohl(<uint32_t>more)
    memcpy(out, b"FIP1", 4)
    memcpy(out + 4, numbers, sizeof(numbers))
    memcpy(out + _ANSWER_HEADER, PyBytes_AS_STRING(output), size)
    memcpy(out + _ANSWER_HEADER + size, PyBytes_AS_STRING(messages), more)
    return packed


# The plain case -------------------------------------------------------------------------------------

cdef struct Request:
    int command
    Text variables[_VARIABLES]
    Text input  # the configuration
    # The file of CNI_NETNS; 0 is unknown. Its path is valid in the mount namespace ``mount``.
    uint64_t device, inode, mount, born_ns
    Text name  # the owner's, as keys.owner_name makes it
    Text texts  # the lease's, as Requester.texts; for a DEL only the name
    char room[_MOST_TEXTS]


cdef bint read_request(const char* frame, size_t size, Request* request) noexcept nogil:
    """Parse a complete frame into ``request``; return whether it is plain. O(bytes)."""
    memset(request, 0, sizeof(Request) - _MOST_TEXTS)
    return (
        split_frame(frame, size, request)
        and is_named(request)
        and read_netns(request)
        and write_texts(request)
    )


# The frame -----------------------------------------------------------------------------------------

cdef bint split_frame(const char* frame, size_t size, Request* request) noexcept nogil:
    """Find the variables and the input, as protocol.request_size and read_variables do."""
    cdef size_t variables, input_size
    cdef const char* at = frame + _FRAME_HEADER
    cdef const char* end
    cdef const char* stop
    if size < _FRAME_HEADER or memcmp(frame, b"FIP1", 4) != 0:
        return False
    variables, input_size = size_at(frame + 4), size_at(frame + 8)
    if variables > _MOST_VARIABLES or input_size > _MOST_INPUT:
        return False
    if size != _FRAME_HEADER + variables + input_size:
        return False
    end = at + variables
    request.input.at, request.input.size = end, input_size
    while at < end:
        stop = <const char*>memchr(at, 0, end - at)
        if stop == NULL:  # no NUL at the end: not plain, but Python accepts it
            return False
        if not take_variable(at, stop, request):
            return False
        at = stop + 1
    return True


cdef inline size_t size_at(const char* at) noexcept nogil:
    cdef uint32_t number
    memcpy(&number, at, 4)
    return ntohl(number)


cdef bint take_variable(const char* at, const char* end, Request* request) noexcept nogil:
    """Store the value of NAME=value; ignore a text without "=".

    Return False, not plain, when a variable comes twice: Python takes the first value.
    """
    cdef const char* equals = <const char*>memchr(at, c'=', end - at)
    cdef int which
    if equals == NULL:
        return True
    which = variable_of(at, equals - at)
    if which == _VARIABLES:
        return True
    if request.variables[which].at != NULL or which == _OVERRIDE:
        return False
    request.variables[which].at = equals + 1
    request.variables[which].size = end - equals - 1
    return True


cdef int variable_of(const char* name, size_t size) noexcept nogil:
    if size == 8:
        if memcmp(name, b"CNI_ARGS", 8) == 0:
            return _ARGS
        return _PATH if memcmp(name, b"CNI_PATH", 8) == 0 else _VARIABLES
    if size == 9 and memcmp(name, b"CNI_NETNS", 9) == 0:
        return _NETNS
    if size == 10 and memcmp(name, b"CNI_IFNAME", 10) == 0:
        return _IFNAME
    if size == 11 and memcmp(name, b"CNI_COMMAND", 11) == 0:
        return _COMMAND
    if size == 14 and memcmp(name, b"FASTIPAM_NETNS", 14) == 0:
        return _SEEN
    if size == 15 and memcmp(name, b"CNI_CONTAINERID", 15) == 0:
        return _CONTAINERID
    if size == 16 and memcmp(name, b"FASTIPAM_STARTED", 16) == 0:
        return _STARTED
    if size == 18 and memcmp(name, b"CNI_NETNS_OVERRIDE", 18) == 0:
        return _OVERRIDE
    return _VARIABLES


# The owner -----------------------------------------------------------------------------------------

cdef bint is_named(Request* request) noexcept nogil:
    """Return whether the variables name a plain command and owner (environment.Variables)."""
    cdef Text command = request.variables[_COMMAND]
    if command.size != 3:
        return False
    if memcmp(command.at, b"ADD", 3) == 0:
        request.command = _ADD
        if not request.variables[_NETNS].size:  # environment.NEEDED
            return False
    elif memcmp(command.at, b"DEL", 3) == 0:
        request.command = _DEL
    else:
        return False
    return (
        request.variables[_PATH].size > 0
        and is_id(request.variables[_CONTAINERID])
        and is_ifname(request.variables[_IFNAME])
    )


# Where a character may occur, by its code: one bit for each kind of place.
cdef enum:
    _BEGINS_ID = 1
    _IN_ID = 2
    _IN_IFNAME = 4

cdef uint8_t _MAY_BE[256]


cdef void fill_table() noexcept:
    cdef int one
    for one in range(256):
        if c'a' <= one <= c'z' or c'0' <= one <= c'9' or c'A' <= one <= c'Z':
            _MAY_BE[one] = _BEGINS_ID | _IN_ID
        elif one in (c'_', c'.', c'-'):
            _MAY_BE[one] = _IN_ID
        if c'!' <= one <= c'~' and one not in (c'/', c':'):
            _MAY_BE[one] |= _IN_IFNAME


fill_table()


cdef inline bint may_be(Text text, uint8_t place) noexcept nogil:
    """Return whether every character of a text may occur in this kind of place."""
    cdef size_t at
    cdef uint8_t all_of = place
    for at in range(text.size):
        all_of &= _MAY_BE[<uint8_t>text.at[at]]
    return all_of == place


cdef bint is_id(Text text) noexcept nogil:
    """Return whether this is a valid container id, by the same rule as reader.is_id."""
    return text.size > 0 and _MAY_BE[<uint8_t>text.at[0]] & _BEGINS_ID and may_be(text, _IN_ID)


cdef bint is_ifname(Text text) noexcept nogil:
    """Return whether this is an interface's name of visible ASCII characters.

    reader.fault_of_ifname allows every character but "/", ":" and white space.
    """
    if not 0 < text.size <= _LONGEST_IFNAME:
        return False
    if text.at[0] == c'.' and (text.size == 1 or text.size == 2 and text.at[1] == c'.'):
        return False
    return may_be(text, _IN_IFNAME)


cdef bint is_ascii(Text text) noexcept nogil:
    """Return whether a text is ASCII, so that Python's decoding as UTF-8 cannot change it."""
    cdef size_t at
    cdef uint8_t bits = 0
    for at in range(text.size):
        bits |= <uint8_t>text.at[at]
    return bits < 128


# The network namespace -----------------------------------------------------------------------------

cdef bint read_netns(Request* request) noexcept nogil:
    """Parse the launcher's FASTIPAM_NETNS variable (environment.read_reported, identify).

    It has four fields, separated by single blanks: the "device:inode" of CNI_NETNS, of the
    launcher's network namespace and of its mount namespace, and the time at which the file of
    CNI_NETNS was made. A malformed variable, and a CNI_NETNS that is the launcher's own namespace,
    is not plain: Python serves the request. A request without CNI_NETNS (a DEL) needs none of it.
    """
    cdef Text seen = request.variables[_SEEN]
    cdef const char* at = seen.at
    cdef const char* end = seen.at + seen.size
    cdef const char* stop
    cdef uint64_t devices[3]
    cdef uint64_t inodes[3]
    cdef bint known[3]
    cdef int field
    if not request.variables[_NETNS].size:
        return True
    if seen.at == NULL:
        return False
    for field in range(3):
        stop = <const char*>memchr(at, c' ', end - at)
        if stop == NULL:
            return False
        known[field] = stop > at
        devices[field] = inodes[field] = 0
        if known[field] and not read_identity(at, stop, &devices[field], &inodes[field]):
            return False
        at = stop + 1
    if not read_number(at, end, &request.born_ns):
        return False
    if not known[0]:
        request.born_ns = 0  # as identify(): the namespace could not be read, so all is unknown
        return True
    if known[1] and devices[0] == devices[1] and inodes[0] == inodes[1]:
        return False
    request.device, request.inode, request.mount = devices[0], inodes[0], inodes[2]
    return request.mount <= UINT32_MAX  # Netns refuses a larger one


cdef bint read_identity(
    const char* at, const char* end, uint64_t* device, uint64_t* inode
) noexcept nogil:
    """Read "device:inode"."""
    cdef const char* colon = <const char*>memchr(at, c':', end - at)
    return (
        colon != NULL and read_number(at, colon, device) and read_number(colon + 1, end, inode)
    )


cdef bint read_number(const char* at, const char* end, uint64_t* number) noexcept nogil:
    """Read a decimal number of up to 64 bits (environment._number)."""
    cdef uint64_t value = 0
    cdef unsigned int digit
    if not 0 < end - at <= _MOST_DIGITS:
        return False
    while at < end:
        digit = <unsigned int>at[0] - c'0'
        if digit > 9 or value > (UINT64_MAX - digit) // 10:
            return False
        value = value * 10 + digit
        at += 1
    number[0] = value
    return True


# The texts of a lease ------------------------------------------------------------------------------

cdef bint write_texts(Request* request) noexcept nogil:
    """Write the owner's name and, for an ADD, the lease's other texts, separated by NUL."""
    cdef Text pod[3]
    cdef int at
    request.name.at = request.texts.at = request.room
    if not append(request, request.variables[_CONTAINERID], False):
        return False
    if not append(request, request.variables[_IFNAME], True):
        return False
    request.name.size = request.texts.size
    if request.command == _DEL:  # Python does not read the CNI_ARGS of a DEL either
        return True
    memset(pod, 0, sizeof(pod))
    if not is_ascii(request.variables[_NETNS]) or not append(request, request.variables[_NETNS], True):
        return False
    if not read_args(request.variables[_ARGS], pod):
        return False
    for at in range(3):
        if not append(request, pod[at], True):
            return False
    return True


cdef bint append(Request* request, Text text, bint divided) noexcept nogil:
    if request.texts.size + divided + text.size > _MOST_TEXTS:
        return False
    if divided:
        request.room[request.texts.size] = 0
        request.texts.size += 1
    if text.size:
        memcpy(request.room + request.texts.size, text.at, text.size)
    request.texts.size += text.size
    return True


cdef bint read_args(Text args, Text* pod) noexcept nogil:
    """Parse CNI_ARGS (environment.pairs, Arguments) into the pod's namespace, name and UID.

    They are plain when they are empty, or have IgnoreUnknown=1, request no address (IP) and have no
    key twice: Python takes the last value.
    """
    cdef const char* at = args.at
    cdef const char* end = args.at + args.size
    cdef const char* stop
    cdef bint ignores = False
    if not args.size:
        return True
    if not is_ascii(args):
        return False
    while True:
        stop = <const char*>memchr(at, c';', end - at)
        if not take_pair(at, end if stop == NULL else stop, pod, &ignores):
            return False
        if stop == NULL:
            return ignores
        at = stop + 1


cdef bint take_pair(const char* at, const char* end, Text* pod, bint* ignores) noexcept nogil:
    """Read a pair KEY=VALUE; return False unless it has exactly one "="."""
    cdef const char* equals = <const char*>memchr(at, c'=', end - at)
    cdef size_t size
    cdef int which
    if equals == NULL or memchr(equals + 1, c'=', end - equals - 1) != NULL:
        return False
    size = equals - at
    if size == 2 and memcmp(at, b"IP", 2) == 0:
        return False
    if size == 13 and memcmp(at, b"IgnoreUnknown", 13) == 0:
        if ignores[0] or end - equals != 2 or equals[1] != c'1':
            return False
        ignores[0] = True
        return True
    which = pod_text_of(at, size)
    if which < 0:
        return True
    if pod[which].at != NULL:
        return False
    pod[which].at, pod[which].size = equals + 1, end - equals - 1
    return True


cdef int pod_text_of(const char* key, size_t size) noexcept nogil:
    if size == 17 and memcmp(key, b"K8S_POD_NAMESPACE", 17) == 0:
        return 0
    if size == 12 and memcmp(key, b"K8S_POD_NAME", 12) == 0:
        return 1
    return 2 if size == 11 and memcmp(key, b"K8S_POD_UID", 11) == 0 else -1


# The configuration of a DEL ------------------------------------------------------------------------
#
# libcni adds the result of the ADD to it ("prevResult"), so no two configurations are the same. A
# DEL does not use that member. So it is cut out, and the rest is looked up among the known
# configurations. The member that is cut out must still be valid JSON.

cdef bint cut_result(Text input, Text* before, Text* behind) noexcept nogil:
    """Find ``"prevResult": VALUE,`` among the members of a document; return whether it was found.

    ``before`` and ``behind`` are set to the text before and behind it. It is not found when it is
    the last member.
    """
    cdef const char* end = input.at + input.size
    cdef const char* at = skip_space(input.at, end)
    cdef const char* key
    cdef bint is_result
    if at == end or at[0] != c'{' or memmem(at, end - at, b'"prevResult"', 12) == NULL:
        return False
    while True:
        key = skip_space(at + 1, end)
        at = skip_string(key, end)
        if at == NULL:
            return False
        is_result = at - key == 12 and memcmp(key, b'"prevResult"', 12) == 0
        at = skip_colon(at, end)
        if at != NULL:
            at = skip_value(at, end, _MOST_DEPTH)
        if at == NULL:
            return False
        at = skip_space(at, end)
        if at == end or at[0] != c',':
            return False
        if is_result:
            at = skip_space(at + 1, end)
            before.at, before.size = input.at, key - input.at
            behind.at, behind.size = at, end - at
            return True


# Each of these functions skips one JSON element and returns the position behind it, or NULL when it
# is missing or not accepted. They accept less than Python's decoder: only ASCII, and short numbers.

cdef const char* skip_space(const char* at, const char* end) noexcept nogil:
    while at < end and at[0] in (c' ', c'\t', c'\n', c'\r'):
        at += 1
    return at


cdef const char* skip_value(const char* at, const char* end, int depth) noexcept nogil:
    if at == end:
        return NULL
    if at[0] == c'"':
        return skip_string(at, end)
    if at[0] == c'{' or at[0] == c'[':
        return skip_members(at, end, depth - 1) if depth else NULL
    if end - at >= 4 and (memcmp(at, b"true", 4) == 0 or memcmp(at, b"null", 4) == 0):
        return at + 4
    if end - at >= 5 and memcmp(at, b"false", 5) == 0:
        return at + 5
    return skip_number(at, end)


cdef const char* skip_members(const char* at, const char* end, int depth) noexcept nogil:
    """Skip an object or a list."""
    cdef bint has_keys = at[0] == c'{'
    cdef char close = c'}' if has_keys else c']'
    at = skip_space(at + 1, end)
    if at < end and at[0] == close:
        return at + 1
    while True:
        if has_keys:
            at = skip_string(at, end)
            if at != NULL:
                at = skip_colon(at, end)
        if at != NULL:
            at = skip_value(at, end, depth)
        if at == NULL:
            return NULL
        at = skip_space(at, end)
        if at < end and at[0] == close:
            return at + 1
        if at == end or at[0] != c',':
            return NULL
        at = skip_space(at + 1, end)


cdef const char* skip_colon(const char* at, const char* end) noexcept nogil:
    at = skip_space(at, end)
    return skip_space(at + 1, end) if at < end and at[0] == c':' else NULL


cdef const char* skip_string(const char* at, const char* end) noexcept nogil:
    """Skip a string without escapes."""
    if at == end or at[0] != c'"':
        return NULL
    at += 1
    while at < end and at[0] != c'"':
        if at[0] < c' ' or at[0] > c'~' or at[0] == c'\\':
            return NULL
        at += 1
    return at + 1 if at < end else NULL


cdef const char* skip_number(const char* at, const char* end) noexcept nogil:
    """Skip a whole number."""
    cdef const char* first
    if at < end and at[0] == c'-':
        at += 1
    first = at
    while at < end and c'0' <= at[0] <= c'9':
        at += 1
    if not 0 < at - first <= _MOST_NUMBER or first[0] == c'0' and at - first > 1:
        return NULL
    if at < end and at[0] in (c'.', c'e', c'E'):
        return NULL
    return at


def without_result(bytes configuration not None):
    """Return a configuration without its ``prevResult``. O(bytes).

    It is returned unchanged when it has none, or when ``prevResult`` is the last member or is not
    plain JSON.
    """
    cdef Text whole, before, behind
    whole.at, whole.size = PyBytes_AS_STRING(configuration), PyBytes_GET_SIZE(configuration)
    if whole.size > _MOST_INPUT or not cut_result(whole, &before, &behind):
        return configuration
    return joined(before, behind)


cdef bytes joined(Text one, Text other):
    cdef bytes whole = PyBytes_FromStringAndSize(NULL, one.size + other.size)
    memcpy(PyBytes_AS_STRING(whole), one.at, one.size)
    memcpy(PyBytes_AS_STRING(whole) + one.size, other.at, other.size)
    return whole


# For tests -----------------------------------------------------------------------------------------

def parse_request(bytes frame not None):
    """Parse a frame and return its fields, or None when it is not plain.

    The fields are: command, owner's name, texts of the lease, configuration; device, inode, mount
    namespace and time of creation of the network namespace; and the text of FASTIPAM_STARTED.
    """
    cdef Request request
    if not read_request(PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame), &request):
        return None
    return (
        "ADD" if request.command == _ADD else "DEL",
        as_bytes(request.name),
        as_bytes(request.texts),
        as_bytes(request.input),
        request.device,
        request.inode,
        request.mount,
        request.born_ns,
        as_bytes(request.variables[_STARTED]),
    )


cdef inline bytes as_bytes(Text text):
    return PyBytes_FromStringAndSize(text.at, text.size)
