"""A program that embeds fastipam: threads, signals that raise, forks. It runs as ``python -c``.

A line of its input is a number, a command and owners; a line of its output the number and what came
of it. ADD and DEL are done by threads. ROUND is done by the main thread while an alarm raises an
exception at a random moment; FORK makes a child while the threads work.
"""

PROGRAM = r'''
import faulthandler, ipaddress, os, queue, random, signal, sys, threading, time
import fastipam

faulthandler.register(signal.SIGUSR1)  # says where it stands
path, name, seed, ranges, cooldown = sys.argv[1:]
chance = random.Random(seed)
fastipam.open  # imported now: an alarm that raises in an import breaks Python's own lock
main_work, work = queue.SimpleQueue(), queue.SimpleQueue()
armed = False
opened = threading.Lock()
store = {}


class Interrupted(Exception):
    """The alarm."""


def alarm(*_):
    if armed:
        raise Interrupted


signal.signal(signal.SIGALRM, alarm)


def network():
    net = store.get("net")
    if net is None:
        ipam = fastipam.open(path)  # each thread by itself: none waits for another one's wait
        with opened:
            net = store.get("net")
            if net is None:
                net = ipam.network(name, ranges, cooldown_s=float(cooldown))
                store.update(ipam=ipam, net=net)
                return net
        ipam.close()
    return net


def reopen():
    with opened:
        ipam = store.pop("ipam", None)
        store.pop("net", None)
    if ipam is not None:
        ipam.close()


def call(command, owner, netns=""):
    try:
        if command == "ADD":
            there = fastipam.Netns.of(netns) if netns else None
            return str(network().allocate(owner, netns=there).address.ip)
        network().release(owner)
        return "released"
    except fastipam.PoolExhausted:
        return "exhausted"
    except fastipam.DuplicateAllocation:
        return "duplicate"
    except (fastipam.StoreBusy, fastipam.TryLater):
        return "busy"
    except fastipam.StoreError as error:
        reopen()
        return f"store:{type(error).__name__}:{error}".replace("\n", " ").replace(" ", "_")
    except OSError as error:
        return f"system:{error}".replace(" ", "_")
    except Interrupted:
        raise
    except Exception as error:
        return f"failed:{error!r}".replace(" ", "_")


def answer(number, words):
    os.write(1, (" ".join([number, *words]) + "\n").encode())


def serve():
    while True:
        number, command, *owners = work.get()
        answer(number, [call(command, *owners)])


def interrupted(command, owner):
    """Do a call that the alarm may interrupt; None when it did."""
    global armed
    try:
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-5, 4e-3))
        armed = True
        found = call(command, owner)
        armed = False
        return found
    except Interrupted:
        return None
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)


def rounds(owners):
    """The address of each owner that has one in the end, "-" of the others."""
    for owner in owners:
        found = None
        for _ in range(3):
            found = interrupted("ADD", owner)
            if found is not None:
                break
            for _ in range(20):  # what became of it is not known
                if interrupted("DEL", owner) == "released":
                    break
            else:
                while call("DEL", owner) != "released":
                    time.sleep(0.01)
        yield found if found and found[0].isdigit() else "-"


def fork(how):
    try:
        inherited = network()
    except fastipam.StoreError:
        return "not-open"
    child = os.fork()
    if not child:
        status = 1
        try:
            if how == "sleep":
                time.sleep(1.5)
                status = 0
            else:
                try:
                    inherited.lookup("10.1.0.1")
                    status = 2
                except fastipam.StoreForked:
                    with fastipam.open(path) as own:
                        own.network(name).stats()
                        status = 0
        except fastipam.StoreError:
            status = 0  # replaced at this moment
        finally:
            os._exit(status)
    if how == "sleep":
        return "slept"
    end = time.monotonic() + 12
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return f"child:{os.waitstatus_to_exitcode(status)}"
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "child:hangs"


def read():
    for line in sys.stdin:
        words = line.split()
        (main_work if words[1] in ("ROUND", "FORK") else work).put(words)
    main_work.put(None)


for target in (read, serve, serve, serve):
    threading.Thread(target=target, daemon=True).start()
os.write(1, b"ready\n")
while (words := main_work.get()) is not None:
    if words[1] == "FORK":
        answer(words[0], [fork(words[2])])
    else:
        answer(words[0], list(rounds(words[2:])))
    if chance.random() < 0.2:
        try:
            os.waitpid(-1, os.WNOHANG)  # children that slept
        except ChildProcessError:
            pass
for _ in range(300):
    try:
        os.waitpid(-1, 0)
    except ChildProcessError:
        break
reopen()
'''

# Takes the writer's lock and keeps it until somebody ends it.
HOLDER = r"""
import sys, time
import fastipam

with fastipam.open(sys.argv[1]) as ipam, ipam.transaction() as txn:
    name = sys.argv[2]
    ranges = None if name in txn.networks() else fastipam.DEFAULT_RANGE
    txn.network(name, ranges).allocate(sys.argv[3])
    print("held", flush=True)
    time.sleep(float(sys.argv[4]))
    raise SystemExit  # nothing of it is committed
"""
