# The beginning and the end of a transaction, which nothing may interrupt: take the writer's lock,
# begin LMDB's transaction, commit or abort it, release the lock.
#
# A signal handler of Python runs between two bytecodes, and may raise there (Ctrl-C, a timeout by
# SIGALRM). In this native code none runs, except while a thread waits for the lock. So a block is
# either not entered, or its end releases the lock.
#
# The classes are ``no_gc_clear``: a block that was never left releases the lock when it is
# deallocated. It needs its members for that, even if the garbage collector found it in a cycle.

from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport Py_INCREF
from libc.errno cimport EAGAIN, EINTR, ETIMEDOUT, errno
from posix.unistd cimport usleep

cdef extern from "writer_lock.h" nogil:
    ctypedef struct fastipam_lock:
        pass
    ctypedef struct fastipam_waiter:
        void* call
        int done
    const int FASTIPAM_SERVED
    fastipam_lock* fastipam_lock_open(const char* path)
    int fastipam_lock_try(fastipam_lock* lock)
    int fastipam_lock_enter(fastipam_lock* lock, fastipam_waiter* waiter, void* call)
    int fastipam_lock_wait(fastipam_lock* lock, fastipam_waiter* waiter, int64_t deadline_ns)
    int fastipam_lock_leave(fastipam_lock* lock, fastipam_waiter* waiter)
    fastipam_waiter* fastipam_lock_claim(fastipam_lock* lock)
    void fastipam_lock_settle(fastipam_lock* lock, int committed)
    void fastipam_lock_release(fastipam_lock* lock)
    int fastipam_lock_is_forked(const fastipam_lock* lock)
    int fastipam_lock_is_of(fastipam_lock* lock, uint64_t device, uint64_t inode)
    void fastipam_lock_close(fastipam_lock* lock)
    void fastipam_lock_free(fastipam_lock* lock)
    ctypedef struct fastipam_directory:
        uint64_t device, inode
        int64_t changed_ns
    int fastipam_look_at(const char* path, fastipam_directory* found)
    int fastipam_identify(const char* path, uint64_t* device, uint64_t* inode)
    void fastipam_close_on_exec(uint64_t device, uint64_t inode)
    int64_t fastipam_monotonic_ns()
    int fastipam_thread_id()
    int fastipam_thread_lives(int id)
    bint fastipam_is_main_thread(int id)

cdef extern from "Python.h":
    ctypedef struct PyInterpreterState:
        pass
    ctypedef struct PyThreadState:
        unsigned long native_thread_id
    PyInterpreterState* PyInterpreterState_Get()
    PyThreadState* PyInterpreterState_ThreadHead(PyInterpreterState* interpreter)
    PyThreadState* PyThreadState_Next(PyThreadState* state)

cdef int _NEW = 0, _OPEN = 1, _LEFT = 2, _OVER = 3
cdef int PANIC = -30795  # LMDB's MDB_PANIC: a write failed, and the environment is unusable
cdef int64_t BRIEF_NS = 1_000_000  # a longer transaction checks the data file again before commit
cdef int COMMITS_PER_READER_CHECK = 256  # a check costs a microsecond for each process that reads
# Two changes of a directory may get the same ctime: within one tick of the kernel's clock, which has
# at most ten milliseconds, or within a second if the file system stores whole seconds only.
cdef int64_t TICK_NS = 20_000_000, COARSE_TICK_NS = 2_000_000_000
cdef int64_t TRUSTED_NS = 1_000_000_000  # how long an unchanged directory is taken for proof
cdef int64_t THREAD_END_NS = 1_000_000_000  # how long to wait for the kernel to end a thread


cdef inline int64_t wall_ns() noexcept:
    """Return the wall clock, in nanoseconds."""
    cdef timespec at
    clock_gettime(CLOCK_REALTIME, &at)
    return <int64_t>at.tv_sec * 1000000000 + at.tv_nsec


cdef inline int64_t tick_of(int64_t changed_ns) noexcept:
    """Return how far from a file's ctime another change may be that has the same ctime."""
    return TICK_NS if changed_ns % 1_000_000_000 else COARSE_TICK_NS


cdef bint _thread_lives(int thread):
    """Return whether a thread of this process is running; ``thread`` is the kernel's id.

    ``Thread.join`` returns when Python has ended the thread; the kernel ends it a little later.
    Only then is LMDB's mutex free. So a thread that Python does not know any more is given
    ``THREAD_END_NS`` to end. A thread that was not made by Python looks the same between its calls
    of Python: it goes on running, and the wait is in vain.
    """
    cdef PyThreadState* state = PyInterpreterState_ThreadHead(PyInterpreterState_Get())
    cdef int64_t deadline_ns
    while state != NULL:
        if <int>state.native_thread_id == thread:
            break
        state = PyThreadState_Next(state)
    if state == NULL:
        deadline_ns = fastipam_monotonic_ns() + THREAD_END_NS
        with nogil:
            while fastipam_thread_lives(thread) and fastipam_monotonic_ns() < deadline_ns:
                usleep(200)
    return fastipam_thread_lives(thread)


@cython.final
cdef class WriterLock:
    """The lock of a store's writers: one thread of one process holds it at a time.

    LMDB has its own lock, a robust mutex in shared memory. But when a process is killed at the
    moment in which the mutex wakes it, the wake-up is lost, and the processes that wait may sleep
    until another writer comes. (With four writers and one killed, this happened in one of fifteen
    runs.) This lock is a file lock, whose waiters the kernel knows. A thread takes it first, so it
    never waits for LMDB's mutex, which still ensures that there is one writer.
    ``src/writer_lock.c`` describes how a wait is bounded, and what happens at a fork.

    With an empty path it is a lock between the threads of this process, first come, first served.
    Use it with ``with``. Raises OSError; TimeoutError after ``patience_s``.
    """

    cdef fastipam_lock* _lock
    cdef int64_t _patience_ns
    cdef readonly str path

    def __cinit__(self, str path, double patience_s=8.0):
        self.path = path
        self._patience_ns = <int64_t>(patience_s * 1e9)
        self._lock = fastipam_lock_open(os.fsencode(path))
        if self._lock == NULL:
            raise OSError(errno, os.strerror(errno), path)

    def __init__(self, path, patience_s=8.0):
        pass

    def __dealloc__(self):
        if self._lock != NULL:
            fastipam_lock_free(self._lock)

    cdef int take(self, int64_t* deadline_ns, void* call=NULL) except -1:
        """Wait until this thread has the lock, and return 0. Signal handlers run while it waits.

        ``deadline_ns`` is a time of CLOCK_MONOTONIC. If it is 0 and the thread has to wait, it is
        set from the patience. ``call`` is a Call that the holder may run for this thread, or NULL;
        when the holder has committed it, return 1, without the lock.
        """
        cdef int error
        cdef fastipam_waiter waiter
        cdef object raised = None
        error = fastipam_lock_try(self._lock)
        if error == 0:
            return 0
        if error == EAGAIN and self._patience_ns <= 0:
            error = ETIMEDOUT
        if error != EAGAIN:
            raise OSError(error, os.strerror(error), self.path)
        if deadline_ns[0] == 0:
            deadline_ns[0] = self.deadline_ns()
        error = fastipam_lock_enter(self._lock, &waiter, call)
        if error:
            raise OSError(error, os.strerror(error), self.path)
        while True:
            with nogil:
                error = fastipam_lock_wait(self._lock, &waiter, deadline_ns[0])
            if error != EINTR:
                break
            try:
                PyErr_CheckSignals()
            except BaseException as problem:
                raised = problem
                break
            if fastipam_lock_is_forked(self._lock):  # the handler has forked; this is the child
                break
        if error > 0:
            with nogil:
                served = fastipam_lock_leave(self._lock, &waiter)
            if raised is not None:
                raise raised
            if not served:
                raise OSError(error, os.strerror(error), self.path)
        return 1 if error else 0

    def set_patience(self, double patience_s):
        """Set how long threads wait that ask for the lock from now on."""
        self._patience_ns = <int64_t>(patience_s * 1e9)

    cdef int64_t deadline_ns(self) noexcept:
        return fastipam_monotonic_ns() + self._patience_ns

    cdef void give(self) noexcept:
        fastipam_lock_release(self._lock)

    def is_free(self):
        """Return whether no thread holds the lock or waits for it."""
        if fastipam_lock_try(self._lock):
            return False
        fastipam_lock_release(self._lock)
        return True

    def __enter__(self):
        cdef int64_t deadline_ns = 0
        self.take(&deadline_ns)

    def __exit__(self, kind, error, trace):
        self.give()


@cython.no_gc_clear
@cython.final
cdef class OpenFiles:
    """The open files of a store in this process: LMDB's environment and the writer's lock.

    ``users`` counts the transactions that use the files. After :meth:`close` they are closed when
    no transaction uses them any more: closing LMDB while a thread is in it would crash. ``stale``
    says that the files must be opened again, because a path now leads to another file, or because
    LMDB's environment is unusable after a failed write.
    """

    cdef readonly object env
    cdef readonly tuple databases
    cdef readonly WriterLock lock
    cdef readonly int users
    cdef readonly bint closing
    cdef public bint stale
    cdef bint _ending
    cdef bytes _data_path, _lock_path
    cdef bytes _directory  # of both; empty if they are not plain files of one directory
    cdef fastipam_directory _unchanged  # while the directory is so, both paths lead to the open files
    cdef int64_t _looked_ns  # when both paths were last looked up
    cdef uint64_t _devices[2]
    cdef uint64_t _inodes[2]
    cdef int _commits
    cdef readonly object memory  # what the last plain call has passed on (Memory), or None

    def __cinit__(self, env, tuple databases, WriterLock lock, bytes data_path, bytes lock_path):
        cdef int at
        self.env = env
        self.databases = databases
        self.lock = lock
        self._data_path = data_path
        self._lock_path = lock_path
        self._directory = os.path.dirname(data_path)
        for at, path in enumerate((data_path, lock_path)):
            if fastipam_identify(<bytes>path, &self._devices[at], &self._inodes[at]):
                raise OSError(errno, os.strerror(errno), os.fsdecode(path))
            if os.path.islink(path) or os.path.dirname(path) != self._directory:
                self._directory = b""
        # The data file may have been replaced after the lock was opened.
        self.stale = not fastipam_lock_is_of(lock._lock, self._devices[0], self._inodes[0])
        fastipam_close_on_exec(self._devices[0], self._inodes[0])

    def __init__(self, env, databases, lock, data_path, lock_path):
        pass

    @property
    def identity(self):
        """The device and the inode of the data file."""
        return self._devices[0], self._inodes[0]

    @property
    def is_in_use(self):
        """Whether a transaction of this process uses the files, or a thread is closing them."""
        return (self.users > 0 or self._ending) and not self.is_forked

    @property
    def is_forked(self):
        """Whether this process was forked from the one that opened the files."""
        return bool(fastipam_lock_is_forked(self.lock._lock))

    cdef bint leads_here(self):
        """Return whether the paths still lead to the open files.

        While the directory has not changed, both files are still in it: whoever makes, renames or
        removes an entry sets the directory's ctime to the current time (POSIX). A ctime is trusted
        only if it was already so old when it was read that a later change must get another one.
        Once a second both paths are looked up anyway: a file may be mounted over one of them.
        """
        cdef fastipam_directory now
        cdef int64_t read_ns = wall_ns()
        cdef bint is_known = fastipam_look_at(self._directory, &now) == 0
        if (
            is_known
            and memcmp(&now, &self._unchanged, sizeof(now)) == 0
            and 0 <= read_ns - self._looked_ns < TRUSTED_NS
        ):
            return True
        if not (self.has_data_file() and self._is_file(1, self._lock_path)):
            return False
        if is_known and read_ns - now.changed_ns > tick_of(now.changed_ns):
            self._unchanged, self._looked_ns = now, read_ns
        return True

    cdef bint has_data_file(self):
        """Return whether the store's path still leads to the open data file, which is locked."""
        return self._is_file(0, self._data_path)

    cdef bint _is_file(self, int at, const char* path):
        cdef uint64_t device, inode
        return (
            fastipam_identify(path, &device, &inode) == 0
            and inode == self._inodes[at]
            and device == self._devices[at]
        )

    def is_current(self):
        """Return whether the paths of data file and LMDB's lock file lead to the open files."""
        return self.leads_here()

    cdef void leave(self):
        self.users -= 1
        if self.closing:
            self.close()

    def close(self):
        """Close the files, now or when the last transaction ends. Do nothing in a forked child."""
        self.closing = True
        if not self.users and not self._ending and not fastipam_lock_is_forked(self.lock._lock):
            self._ending = True
            self.memory = None
            self.env.close()  # other threads run meanwhile
            fastipam_lock_close(self.lock._lock)
            self._ending = False

    def __dealloc__(self):
        # In a forked child the environment is never released, because py-lmdb would wait for LMDB
        # calls of the parent's threads, which do not exist in the child.
        if self.lock is not None and fastipam_lock_is_forked(self.lock._lock):
            Py_INCREF(self.env)

    def reopen(self):
        """Cancel :meth:`close` if a transaction still uses the files; return whether one does."""
        if not self.users:
            return False
        self.closing = False
        return True


@cython.no_gc_clear
cdef class WriteBlock:
    """A ``with`` block around a write transaction: it takes the lock, begins, ends, releases.

    The transaction belongs to the thread that began it. A second block in the same thread would
    wait for itself, so it is refused.

    ``store`` has ``files``, ``local``, ``open_files()``, ``fault()`` and the errors.

    If the block is for one ``call``, it may never begin: another thread of this process that holds
    the lock may run the call and commit it with its own.
    """

    cdef readonly object store
    cdef readonly object txn  # LMDB's transaction, and its methods
    cdef readonly object get, put, delete
    cdef readonly tuple databases
    cdef OpenFiles _files
    cdef bint _locked
    cdef object _call  # a Call that the holder of the lock may run for this thread, or None
    cdef int _guests  # how many calls of other threads this block has taken
    cdef bint _committed
    cdef int _state  # _NEW, _OPEN, _OVER; _LEFT: another thread has left the block
    cdef int _thread
    cdef bint _is_plain  # only plain calls have run in it, and no part: see Transaction.note_plain
    cdef int64_t _begun_ns  # when it began, and checked its files

    cpdef flush(self):
        """Write the changes in memory to LMDB's transaction."""

    cdef int recall(self) except -1:
        """Take over or make the state in memory, after LMDB's transaction has begun."""
        return 0

    cdef void pass_on(self) noexcept:
        """Keep the state in memory for the next transaction: after the commit, with the lock."""

    cdef int finish(self) except -1:
        """Finish after the commit and the release of the lock."""
        return 0

    def __enter__(self):
        cdef object store = self.store, thread = store.local, fault
        cdef object before = getattr(thread, "transaction", None)
        cdef OpenFiles files
        if self._state != _NEW:
            raise store.transaction_is_over()
        if before is not None and not before._end_if_left():
            raise store.transaction_is_open()
        files = self._begin(store)
        if files is None:
            self._state = _OVER
            return None  # another thread has run and committed the call
        try:
            self.get = self.txn.get
            self.put = self.txn.put
            self.delete = self.txn.delete
            self.databases = files.databases
            self.recall()
            thread.transaction = self
            self._state = _OPEN
        except BaseException as error:
            self.txn.abort()
            self._leave()
            fault = store.fault(error)
            if fault is error:
                raise
            raise fault from error
        return self

    cdef OpenFiles _begin(self, store):
        """Take the lock, check that the open files are still the store's, begin LMDB's transaction.

        Files that were replaced are opened again, up to three times. Return None when another
        thread has run and committed the call of this block.
        """
        cdef OpenFiles files
        cdef int attempt
        cdef bint served
        cdef int64_t deadline_ns = 0  # for all attempts together
        cdef void* call = <void*>self._call if self._call is not None else NULL
        for attempt in range(3):
            files = store.files
            if files is None or files.closing or files.stale or fastipam_lock_is_forked(files.lock._lock):
                if files is not None and deadline_ns == 0:
                    deadline_ns = files.lock.deadline_ns()
                files = store.open_files()
            files.users += 1  # before the wait, so that no other thread closes the lock
            try:
                served = files.lock.take(&deadline_ns, call)
            except BaseException as error:
                files.leave()
                if isinstance(error, OSError):
                    if fastipam_lock_is_forked(files.lock._lock):
                        store.open_files()  # raises
                    raise store.translate(error) from error
                raise
            if served:
                files.leave()
                return None
            self._files = files
            self._locked = True
            self._thread = fastipam_thread_id()
            self._begun_ns = fastipam_monotonic_ns()
            if files.leads_here():
                try:
                    self.txn = files.env.begin(None, None, True)
                    return files
                except Exception as error:
                    self._leave()
                    if getattr(error, "code", 0) != PANIC or attempt == 2:
                        raise store.fault(error) from error
            else:
                self._leave()
            files.stale = True
        raise store.replaced()

    def _end_if_left(self):
        """Roll back and return True, if another thread has left the block.

        Call it in the thread that began the transaction.
        """
        if self._state != _LEFT:
            return False
        self._roll_back()
        return True

    cdef int _roll_back(self) except -1:
        """Roll back a transaction whose block another thread has left."""
        if fastipam_lock_is_forked(self._files.lock._lock):
            self.store.open_files()  # raises: the transaction is the parent's
        self.store.local.transaction = None
        self._state = _OVER
        self.txn.abort()
        self._leave()
        return 0

    cdef int make_sure_it_ends(self) except -1:
        """Roll back a transaction whose end could not even begin, because no memory was left."""
        if self._state == _OPEN:
            self._roll_back()
        return 0

    cdef void _leave(self):
        if self._locked:
            self._locked = False
            if self._guests:
                fastipam_lock_settle(self._files.lock._lock, self._committed)
            self._files.lock.give()
            self._files.leave()

    def __exit__(self, kind, error, trace):
        cdef object store = self.store
        cdef OpenFiles files = self._files
        if self._state != _OPEN:
            raise store.transaction_is_over()
        if fastipam_lock_is_forked(files.lock._lock):
            self._state = _OVER
            store.local.transaction = None
            store.open_files()  # raises: the transaction and the lock are the parent's
        if self._thread != fastipam_thread_id():
            self._state = _LEFT  # LMDB can end it only in the thread that began it
            if not _thread_lives(self._thread):
                self._roll_back()
            raise store.transaction_is_over()
        store.local.transaction = None
        self._state = _OVER
        self._end(kind is None, store, files)
        if kind is None:
            files._commits += 1
            if files._commits % COMMITS_PER_READER_CHECK == 0:
                store.check_readers()
            self.finish()
        elif error is not None:
            fault = store.fault(error)
            if fault is not error:
                raise fault from error

    cdef int _end(self, bint well, store, OpenFiles files) except -1:
        """Commit if ``well``, else abort; then release the lock."""
        cdef object txn = self.txn, fault
        cdef bint brief
        try:
            if well:
                self.flush()
                # If the data file was moved away or replaced, the commit would succeed, but its
                # changes would be in no store.
                brief = self._is_plain and fastipam_monotonic_ns() - self._begun_ns < BRIEF_NS
                if not (brief or files.has_data_file()):
                    files.stale = True
                    raise store.replaced()
                txn.commit()
                self._committed = True
                self.pass_on()
            else:
                txn.abort()
        except BaseException as problem:
            txn.abort()
            if getattr(problem, "code", 0) == PANIC:
                files.stale = True
            self._leave()
            fault = store.fault(problem)
            if fault is problem:
                raise
            raise fault from problem
        self._leave()
        return 0

    def __dealloc__(self):
        # ``_locked`` says that the block was never left: its thread has ended in it, or the
        # interpreter ends. LMDB's transaction is ended first, else py-lmdb would wait for it when
        # the files are closed.
        if not self._locked:
            return
        if fastipam_lock_is_forked(self._files.lock._lock):
            return  # the transaction, the lock and the files are the parent's
        if self._thread != fastipam_thread_id() and _thread_lives(self._thread):
            # Only that thread could end it, and has no reference to it: files and lock stay open.
            Py_INCREF(self._files)
            Py_INCREF(self._files.env)
            return
        if self.txn is not None:
            try:
                self.txn.abort()
            except Exception:
                pass  # LMDB's environment is unusable
        self._leave()


@cython.no_gc_clear
cdef class ReadBlock:
    """A ``with`` block around a read transaction, which shows the last commit.

    Inside a write transaction that is a batch, or that gives its calls a view of the store, it
    shows that write transaction as it is.
    """

    cdef readonly object store
    cdef readonly object txn, get
    cdef readonly tuple databases
    cdef OpenFiles _files

    def __init__(self, store):
        self.store = store

    def __enter__(self):
        cdef object store = self.store
        cdef object writing = getattr(store.local, "transaction", None), fault
        cdef OpenFiles files
        if writing is not None and (store.nests or (<Transaction>writing).joined):
            files = (<WriteBlock>writing)._files
            if fastipam_lock_is_forked(files.lock._lock):
                store.open_files()  # raises
            try:
                (<WriteBlock>writing).flush()
            except Exception as error:
                fault = store.fault(error)
                if fault is error:
                    raise
                raise fault from error
            self.txn = (<WriteBlock>writing).txn
        else:
            self.txn = self._begin(store)
            files = self._files
        self.get = self.txn.get
        self.databases = files.databases
        return self

    @property
    def number(self):
        """The number of the commit that the block shows."""
        return int(self.txn.id())

    def pages(self, uint32_t pool_id, int family):
        """Return the bitmap of a pool and family. It is read-only."""
        return pages_of(self, pool_id, family)

    def pool_state(self, uint32_t pool_id):
        """Return the numbers of a pool."""
        return read_pool_state(self.get, self.databases, pool_id)

    def event_log(self, uint32_t network_id):
        """Return the history of a network."""
        return read_event_log(self.get, self.databases, network_id)

    cdef object _begin(self, store):
        cdef OpenFiles files
        cdef object txn
        cdef int attempt
        for attempt in range(3):
            files = store.files
            if files is None or files.closing or files.stale or fastipam_lock_is_forked(files.lock._lock):
                files = store.open_files()
            if files.leads_here():
                files.users += 1
                try:
                    try:
                        txn = files.env.begin()
                    except Exception as error:
                        if not store.may_begin_again(error):
                            raise
                        txn = files.env.begin()
                except BaseException as error:
                    files.leave()
                    if getattr(error, "code", 0) != PANIC or attempt == 2:
                        raise store.fault(error) from error
                else:
                    self._files = files
                    return txn
            files.stale = True
        raise store.replaced()

    def __exit__(self, kind, error, trace):
        cdef object fault
        cdef OpenFiles files = self._files
        if files is not None:
            self._files = None
            if not fastipam_lock_is_forked(files.lock._lock):
                self.txn.abort()
                files.leave()
        if error is not None:
            fault = self.store.fault(error)
            if fault is not error:
                raise fault from error

    def __dealloc__(self):
        if self._files is not None:
            self._files.leave()
