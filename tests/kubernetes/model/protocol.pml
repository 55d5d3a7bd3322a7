/* The protocol by which nodes own blocks in the Kubernetes API, for the model checker spin.
 *
 * Two nodes, one block, a controller that removes nodes. `tests/kubernetes/test_model.py` checks every
 * order of their steps, with crashes, lost answers and requests that arrive after their sender has
 * given them up; docs/cluster.md ("Kubernetes engine: invariants") says which step is where in the code.
 *
 * What is removed, one of:
 *   (nothing)  a machine that is off when the controller looks: its Node object is gone. It may come back.
 *   LIVE       a node that still runs: somebody deleted its Node object too early. Without fencing it goes
 *              on in the block that it had until it hears of the removal. That is the price, and is
 *              excused here (`excused`); to take anything *new* into use is not.
 *   FENCED     a node that still runs, with fencing: nothing is excused.
 * HANDOVER: node 0 owns the block, node 1 asks for it. Else the block is free, and both claim it.
 *
 * A guard is taken away with -DNO_...: each has to give a counterexample (the table in test_model.py).
 *
 * What has to hold: TWO, REMOVED, LOST below never do. LOST is looked at when nothing can move any more
 * (`timeout`), which is a check of safety and needs no assumption of fairness: all budgets are finite.
 *
 * A read and the change of the local store that follows from it are one step here: what could happen
 * between them could as well happen after both. A node's agent is one process: it holds the lock.
 *
 * Left out: several blocks and donors (each block is a CAS of its own; that a request is answered once
 * limits what is given, not who owns it), pools (I8: no two objects cover one address), via, the end
 * of a tombstone after a day. */

#ifndef WORK
#define WORK 1       /* claims, releases, requests of each node */
#endif
#ifndef FAULTS
#define FAULTS 1     /* requests whose answer is lost, or that arrive later or never */
#endif
#ifndef CRASHES
#define CRASHES 1    /* of nodes and of the controller, together */
#endif
#ifndef REMOVALS
#define REMOVALS 1
#endif
#define NODES 2
#define CONTROLLER NODES
#define FREE 255     /* nobody; as incarnation: nobody, the entry is a tombstone */

mtype = { NONE, CLAIMING, ACTIVE, RELEASING, FOUND };              /* a block in a node's store */
mtype = { YES, NO, UNKNOWN };                                      /* what a sender has heard */
mtype = { POST_BLOCK, PUT_BLOCK, DELETE_BLOCK, PUT_ENTRY, DELETE_LEASE, POST_ASK, PUT_ANSWER, DELETE_ASK };

/* The API server: one block, an entry and a Lease a node, node 1's AddressRequest. */
typedef Block { byte owner, epoch, version };
typedef Entry { byte epoch, version, incarnation, lease };
typedef Lease { byte uid, version; bool old, over }; /* old: not renewed since the controller looked; over: for TTL */
typedef Ask { bool there, answered; byte epoch, version };
Block block;
Entry entry[NODES];
Lease lease[NODES];
Ask ask;
byte uids = NODES;

/* A node: its store, which survives a crash unless the disk is lost, and its machine. */
typedef Node {
    mtype state; byte version, epoch, incarnation;
    bool on, serving, rebooted, proof;
    bool excused };                     /* of the judge: see LIVE */
Node node[NODES];
byte work[NODES], faults = FAULTS, crashes = CRASHES, removals = REMOVALS, incarnations = NODES;
bool killed[NODES + 1];

#ifdef FENCED
#define PROVEN(n) node[n].proof
#else
#define PROVEN(n) true
#endif
#define ASSIGNS(n) (node[n].on && node[n].serving && node[n].state == ACTIVE && PROVEN(n) && !node[n].excused)
#define MINE(n) (entry[n].incarnation == node[n].incarnation && entry[n].epoch == node[n].epoch)
#define TWO (ASSIGNS(0) && ASSIGNS(1))                             /* a block is active on two nodes */
#define REMOVED(n) (ASSIGNS(n) && entry[n].incarnation == FREE)    /* a removed node assigns */
#define LOST (block.owner != FREE && (entry[block.owner].incarnation == FREE || \
    (node[block.owner].on && node[block.owner].state != ACTIVE)))  /* nobody uses it, nobody can claim it */
inline check(n) { assert(!TWO); assert(!REMOVED(n)) }   /* wherever ASSIGNS or a tombstone may begin */

/* What the server does with a request: create if absent, else compare the version and swap. */
#ifdef NO_VERSION
#define DELETES(ver) true
#else
#define DELETES(ver) (ver == block.version)
#endif
#ifdef NO_CREATE
#define CREATES true
#else
#define CREATES (block.owner == FREE)
#endif
inline apply(K, W, V, O, E, X, R) {
    R = NO;
    if
    :: K == POST_BLOCK && CREATES ->
        block.owner = O; block.epoch = E; block.version++; R = YES
    :: K == PUT_BLOCK && block.owner != FREE && V == block.version ->
        if  /* a PUT that changes nothing leaves the version: so does the API server */
        :: block.owner == O && block.epoch == E
        :: else -> block.owner = O; block.epoch = E; block.version++
        fi;
        R = YES
    :: K == DELETE_BLOCK && block.owner != FREE && DELETES(V) -> block.owner = FREE; R = YES
    :: K == PUT_ENTRY && V == entry[W].version ->
        entry[W].incarnation = O; entry[W].epoch = E; entry[W].lease = X; entry[W].version++;
        R = YES;
#ifdef LIVE
        if
        :: O == FREE && (node[W].state == ACTIVE || node[W].state == RELEASING) ->
            node[W].excused = true
        :: else
        fi;
#endif
        check(W)
    :: K == DELETE_LEASE && lease[W].uid && V == lease[W].version -> lease[W].uid = 0; R = YES
    :: K == POST_ASK && !ask.there ->
        ask.there = true; ask.answered = false; ask.epoch = E; ask.version++; R = YES
    :: K == PUT_ANSWER && ask.there && V == ask.version -> ask.answered = true; ask.version++; R = YES
    :: K == DELETE_ASK && ask.there && V == ask.version -> ask.there = false; R = YES
    :: else
    fi
}

/* A request: it is answered; or it arrives and the answer is lost; or it arrives later, or never. */
chan late = [1] of { mtype, byte, byte, byte, byte, byte };
inline send(K, W, V, O, E, X) {
    if
    :: true -> apply(K, W, V, O, E, X, res); seen = block.version
    :: faults > 0 -> faults--; apply(K, W, V, O, E, X, res); res = UNKNOWN
    :: faults > 0 && nfull(late) -> faults--; late!K,W,V,O,E,X; res = UNKNOWN
    fi
}
proctype Late() {
    mtype kind, res; byte who, ver, own, ep, extra;
end:do
    :: atomic { late?kind,who,ver,own,ep,extra -> apply(kind, who, ver, own, ep, extra, res);
                kind = 0; res = 0; who = 0; ver = 0; own = 0; ep = 0; extra = 0 }
    :: atomic { late?kind,who,ver,own,ep,extra -> kind = 0; who = 0; ver = 0; own = 0; ep = 0; extra = 0 }
    od
}

/* Crashes, at any step: an agent dies; a machine goes down; its disk is lost; the controller dies. */
inline down(n) { node[n].on = false; node[n].serving = false; node[n].rebooted = true; node[n].proof = false;
                 node[n].excused = false }
proctype Fate() {
    byte n;
end:do
    :: atomic { crashes > 0 -> crashes--;
        if
        :: n = CONTROLLER
        :: n = 0
#ifdef HANDOVER
        :: n = 1  /* else both nodes are alike, and it is enough to kill and to remove node 0 */
#endif
        fi;
        killed[n] = true;
        if
        :: true
        :: n != CONTROLLER -> down(n)
        :: n != CONTROLLER -> down(n); node[n].state = NONE; node[n].version = 0; node[n].epoch = 0;
            node[n].incarnation = incarnations; incarnations++
        fi; n = 0 }
    od
}

inline use(n) { node[n].state = ACTIVE; node[n].version = seen; check(n) }
inline back(n) { seen = node[n].version; use(n) }
inline drop(n) { node[n].state = NONE; node[n].version = 0; node[n].excused = false }
/* I7: what an earlier life of this node had is not used before it is stamped. */
inline forget(n) {
    node[n].excused = false;
#ifndef NO_STAMP
    if
    :: node[n].state == ACTIVE -> node[n].state = FOUND; node[n].version = 0
    :: node[n].state == CLAIMING -> node[n].state = NONE
    :: else
    fi
#endif
}
#ifdef NO_EPOCH
#define NEXT(e) (e)
#else
#define NEXT(e) (e + 1)
#endif
#ifdef NO_STAMP
#define OURS(n, who, ep) (who == n)
#define USABLE(n) (node[n].state == ACTIVE || node[n].state == FOUND || node[n].state == NONE)
#else
#define OURS(n, who, ep) (who == n && ep == node[n].epoch)
#define USABLE(n) (node[n].state == ACTIVE)
#endif
#ifdef NO_LEASE_IN_ENTRY
#define NAMED(n) true
#else
#define NAMED(n) (entry[n].lease == uid)
#endif
#ifdef NO_CLOCK
#define PROOF(n) true                                             /* counted from the answer */
#else
#define PROOF(n) (lease[n].uid == uid && !lease[n].over)           /* counted from before it was sent */
#endif
inline get_block() { who = block.owner; ep = block.epoch; seen = block.version }

proctype Agent(byte n) {
    mtype res; byte who, ep, seen, ver, uid;
life:
    {
        if  /* the machine starts, or stays off for ever; or only the agent has died */
        :: node[n].on
        :: !node[n].on -> node[n].on = true
        :: !node[n].on -> goto gone
        fi;

register: /* 3.4. With fencing: a Lease, then the entry that names it, then the proof counts */
#ifdef FENCED
        atomic {
            if :: lease[n].uid == 0 -> uids++; lease[n].uid = uids :: else fi;
            lease[n].version++; lease[n].old = false; lease[n].over = false; uid = lease[n].uid
        };
#endif
        atomic {
            who = entry[n].incarnation; ep = entry[n].epoch; ver = entry[n].version;
            if
            :: MINE(n) && NAMED(n) && !node[n].rebooted -> goto registered
            :: !MINE(n) -> forget(n)
            :: else
            fi;
            if :: who != node[n].incarnation -> ep = NEXT(ep) :: else fi
        };
        atomic {
            send(PUT_ENTRY, n, ver, node[n].incarnation, ep, uid);
            if :: res == YES :: else -> goto register fi
        };
registered:
        atomic { node[n].epoch = ep; node[n].rebooted = false; node[n].proof = PROOF(n); check(n) };

compare: /* LIST of the own blocks, at the start and every ten minutes */
        atomic {
            get_block(); node[n].serving = true;
            if
            :: node[n].state == RELEASING -> goto finish
            :: node[n].state == CLAIMING && OURS(n, who, ep) -> goto confirm
            :: USABLE(n) && OURS(n, who, ep) -> use(n)
            :: who != n -> drop(n)
            :: else -> node[n].state = FOUND; node[n].version = 0; goto adopt
            fi
        };

idle:   atomic { res = 0; who = 0; ep = 0; seen = 0; ver = 0 };
end:    do
        :: atomic { work[n] && node[n].state == NONE && block.owner == FREE ->
            work[n]--; node[n].state = CLAIMING; goto create }                                  /* C1 */
        :: atomic { work[n] && node[n].state == ACTIVE -> work[n]--;
#ifndef NO_RELEASING
            node[n].state = RELEASING; node[n].excused = false;
#endif
            goto finish }                                                                       /* R1 */
        :: !MINE(n) -> goto register                                        /* it GETs its own entry */
        :: block.owner == n && node[n].state == NONE -> goto compare
        :: node[n].state == ACTIVE && !OURS(n, block.owner, block.epoch) -> goto compare
#ifdef FENCED
        :: lease[n].uid != uid -> goto register                                    /* 404: rejoin */
        :: atomic { lease[n].uid == uid && (lease[n].old || !node[n].proof) ->
            lease[n].version++; lease[n].old = false; lease[n].over = false };
            atomic { node[n].proof = PROOF(n); check(n) }
#endif
#ifdef HANDOVER
        :: atomic { n == 0 && ask.there && !ask.answered && node[n].state == ACTIVE ->
            ver = ask.version; ep = ask.epoch;
#ifndef NO_RELEASING
            node[n].state = RELEASING;
#endif
            goto answer }                                                                       /* N2 */
        :: atomic { n == 1 && work[n] && node[n].state == NONE && !ask.there && block.owner != FREE ->
            work[n]--; send(POST_ASK, n, 0, 0, node[n].epoch, 0); res = 0 }                     /* N1 */
        :: n == 1 && ask.there && (ask.answered || node[n].state == ACTIVE) -> goto collect
#endif
        od;

create: /* C2: repeated until the answer is known */
        atomic {
            send(POST_BLOCK, n, 0, n, node[n].epoch, 0);
            if
            :: res == UNKNOWN -> goto create
            :: res == YES -> goto confirm
            :: res == NO -> skip
            fi
        };
        atomic { get_block(); if :: OURS(n, who, ep) :: else -> drop(n); goto idle fi };
confirm: /* C3, I6: the own entry, read after the last write of the block */
#ifndef NO_CONFIRM
        atomic {
            if
            :: !MINE(n) && node[n].state == CLAIMING -> goto undo
            :: !MINE(n) && node[n].state != CLAIMING -> goto register
            :: else -> use(n); goto idle                                                        /* C4 */
            fi
        };
#else
        atomic { use(n); goto idle };
#endif
undo:
        atomic { send(DELETE_BLOCK, n, seen, 0, 0, 0) };
        atomic { drop(n); goto register };

adopt: /* A1 */
        atomic {
            send(PUT_BLOCK, n, seen, n, node[n].epoch, 0);
            if
            :: res != YES -> goto compare
#ifdef NO_CONFIRM_FOUND
            :: res == YES -> use(n); goto idle
#else
            :: res == YES -> goto confirm
#endif
            fi
        };

finish: /* R2 */
        atomic {
            send(DELETE_BLOCK, n, node[n].version, 0, 0, 0);
            if
            :: res == YES -> goto forgotten
#ifdef NO_DEFINITE_NO
            :: res == UNKNOWN -> back(n); goto idle
#else
            :: res == UNKNOWN -> goto finish
#endif
            :: res == NO -> skip
            fi
        };
        atomic { get_block(); if :: who == n -> node[n].version = seen; goto finish :: else fi };
forgotten: /* R3 */
        atomic { drop(n); goto idle };

#ifdef HANDOVER
answer: /* N3: it moves no block, so what became of it may be read after an answer that was lost */
        atomic { send(PUT_ANSWER, n, ver, 0, 0, 0); if :: res == YES -> goto give :: else fi };
        atomic { if :: res == UNKNOWN && ask.there && ask.answered :: else -> back(n); goto idle fi };
give: /* N4: the one change of the owner */
        atomic {
            send(PUT_BLOCK, n, node[n].version, 1, ep, 0);
            if
            :: res == YES -> goto forgotten
#ifdef NO_DEFINITE_NO
            :: res == UNKNOWN -> back(n); goto idle
#else
            :: res == UNKNOWN -> goto give
#endif
            :: res == NO -> goto finish
            fi
        };

collect: /* N6, N7 */
        atomic {
            get_block(); ver = ask.version;
            if
#ifdef NO_CONFIRM_FOUND
            :: node[n].state == NONE && OURS(n, who, ep) -> use(n); goto idle
#else
            :: node[n].state == NONE && OURS(n, who, ep) -> goto confirm
#endif
            :: node[n].state == NONE && who == FREE -> node[n].state = CLAIMING; goto create
            :: else
            fi
        };
        atomic { send(DELETE_ASK, n, ver, 0, 0, 0); goto idle }
#endif
    }
    unless { atomic { killed[n] -> killed[n] = false; goto life } };
gone: skip
}

proctype Controller() {
    mtype res; byte t, ver, ep, seen, lv;
life:
    {
        res = 0;
idle:   atomic { t = 0; ver = 0; ep = 0; seen = 0; lv = 0 };
end:    do
        :: removals > 0 -> removals--; break                                          /* of node 0 */
#ifdef HANDOVER
        :: removals > 0 -> removals--; t = 1; break
#endif
#ifndef NO_ORPHANS
        :: atomic { block.owner != FREE && entry[block.owner].incarnation == FREE -> t = block.owner; goto orphans }
#endif
        od;

        /* E0: the entry's version is read before the last look at what says that the machine is gone */
#ifndef NO_ENTRY_FIRST
        atomic { ver = entry[t].version; ep = entry[t].epoch };
#endif
#ifdef FENCED
        atomic { lv = lease[t].version; lease[t].old = true };                                  /* E1 */
        atomic { if :: lease[t].old -> lease[t].over = true; node[t].proof = false :: else fi };
        atomic { send(DELETE_LEASE, t, lv, 0, 0, 0); if :: res == YES -> goto ended :: else fi };
        if :: lease[t].uid == 0 :: else -> goto idle fi;
ended:
#else
#ifndef LIVE
        atomic { if :: node[t].on -> goto idle :: else fi };
#endif
#endif
#ifdef NO_ENTRY_FIRST
        atomic { ver = entry[t].version; ep = entry[t].epoch };
#endif
#ifdef NO_TOMBSTONE_FIRST
        do
        :: atomic { block.owner == t -> seen = block.version };
            atomic { send(DELETE_BLOCK, t, seen, 0, 0, 0) }
        :: block.owner != t -> break
        od;
#endif
tombstone: /* E2 */
        atomic { send(PUT_ENTRY, t, ver, FREE, ep + 1, 0); if :: res == YES -> goto orphans :: else fi };
        atomic {
            if
            :: entry[t].incarnation == FREE
            :: entry[t].incarnation != FREE && entry[t].version == ver -> goto tombstone
            :: else -> goto idle
            fi
        };
orphans: /* E3: list; is the entry ended still?; delete by version; again */
        do
        :: atomic { block.owner == t -> seen = block.version };
#ifndef NO_REREAD
            atomic { if :: entry[t].incarnation == FREE :: else -> goto idle fi };
#endif
            atomic { send(DELETE_BLOCK, t, seen, 0, 0, 0) }
        :: block.owner != t -> goto idle
        od
    }
    unless { atomic { killed[CONTROLLER] -> killed[CONTROLLER] = false; goto life } }
}

proctype Judge() { timeout -> assert(!LOST) }

init {
    atomic {
        byte n;
        block.owner = FREE; block.version = 1;
        for (n : 0 .. NODES - 1) {
            entry[n].incarnation = n; entry[n].epoch = 1; entry[n].lease = n + 1; lease[n].uid = n + 1;
            node[n].incarnation = n; node[n].epoch = 1; node[n].on = true; node[n].proof = true;
            node[n].state = NONE; work[n] = WORK
        };
#ifdef HANDOVER
        block.owner = 0; block.epoch = 1; node[0].state = ACTIVE; node[0].version = 1;
#endif
        n = 0;
        run Late(); run Fate(); run Agent(0); run Agent(1); run Controller(); run Judge()
    }
}
