"""What was asked of the servers and what they answered, and whether the answers can all be true.

A key is a register or a log. A register holds a number that only grows; each number has an author,
the one request that wrote it. A log is appended to. Whoever reads takes the key's floor first: what
was acknowledged or read before must be in an answer to a request that was sent after.
"""

import hashlib
import threading
import time

SENT, ACKED, UNKNOWN, REFUSED = "sent", "acknowledged", "unknown", "refused"
LARGE = 300_000


def value(key, number, author):
    """The bytes that this author writes as this number."""
    head = "%s %d %s " % (key, number, author)
    size = LARGE if key.startswith("put") and number % 50 == 49 else 40 + number * 37 % 700
    pad = hashlib.sha256(head.encode()).hexdigest()
    return (head + (pad * (size // len(pad) + 1))[:size]).encode()


class Register:
    """A key whose number grows: by puts of one owner, by comparing generations, or by one add."""

    def __init__(self, name):
        self.name = name
        self.attempts = {}  # number -> author -> state
        self.shown = set()  # (number, author) that a read has shown
        self.rank = 0  # the highest number that was acknowledged or shown
        self.generation = 0
        self.body = None  # what was shown at that generation

    def plan(self, number, author):
        """Notes a request that is about to be sent; returns its value."""
        self.attempts.setdefault(number, {})[author] = SENT
        return value(self.name, number, author)

    def settle(self, number, author, state, generation=None):
        """Notes what a request came to; returns what is wrong with that."""
        wrong = []
        authors = self.attempts[number]
        others = [who for who, was in authors.items() if was == ACKED and who != author]
        if state == ACKED and others:
            wrong.append("%s: number %d acknowledged to %s and to %s"
                         % (self.name, number, others[0], author))
        if state == REFUSED and (number, author) in self.shown:
            wrong.append("%s: number %d of %s was refused but written"
                         % (self.name, number, author))
        authors[author] = state
        if state == ACKED:
            self.rank = max(self.rank, number)
            if generation is not None and generation > self.generation:
                self.generation, self.body = generation, None
        return wrong

    def floor(self):
        """What an answer to a request sent from now on must at least show."""
        return self.rank, self.generation

    def judge(self, floor, body, generation):
        """Returns what is wrong with an answer, and in what it is too old."""
        rank, least = floor
        if body is None:
            return [], ["%s: absent, but number %d was there" % (self.name, rank)] if rank else []
        try:
            name, number, author = body[:200].decode().split(" ", 3)[:3]
            number = int(number)
        except ValueError:
            return ["%s: a value that nobody wrote: %r" % (self.name, body[:60])], []
        what = "%s: number %d of %s (generation %d)" % (self.name, number, author, generation)
        state = self.attempts.get(number, {}).get(author)
        if name != self.name or state is None or body != value(self.name, number, author):
            return [what + " is a value that nobody wrote"], []
        wrong, old = [], []
        if state == REFUSED:
            wrong.append(what + " was refused but written")
        for other, was in self.attempts[number].items():
            if other != author and was == ACKED:
                wrong.append(what + " where %s was acknowledged" % other)
        if number < rank:
            old.append(what + " after number %d was there" % rank)
        if generation < least:
            old.append(what + " after generation %d was there" % least)
        if generation == self.generation and self.body not in (None, body):
            wrong.append(what + " has the generation of another value")
        if not wrong and not old:
            self.shown.add((number, author))
            self.rank = max(self.rank, number)
            if generation >= self.generation:
                self.generation, self.body = generation, body
        return wrong, old


class Log:
    """A key that only grows by appended tokens, each "WRITER.NUMBER;"."""

    def __init__(self, name):
        self.name = name
        self.states = {}  # token -> state
        self.acked = []
        self.body = b""  # the longest that was shown
        self.generation = 0

    def plan(self, _number, token):
        """Notes an append that is about to be sent; returns its bytes."""
        self.states[token] = SENT
        return (token + ";").encode()

    def settle(self, _number, token, state, generation=None):
        """Notes what an append came to."""
        self.states[token] = state
        if state == ACKED:
            self.acked.append(token)
            self.generation = max(self.generation, generation or 0)
        if state == REFUSED and (token + ";").encode() in self.body:
            return ["%s: token %s was refused but written" % (self.name, token)]
        return []

    def floor(self):
        """What an answer to a request sent from now on must at least show."""
        return len(self.acked), self.generation, self.body

    def judge(self, floor, body, generation):
        """Returns what is wrong with an answer, and in what it is too old."""
        count, least, shown = floor
        tokens = (body or b"").decode(errors="replace").split(";")
        wrong, old = [], []
        if tokens.pop():
            wrong.append("%s: ends in a part of a token" % self.name)
        there = set(tokens)
        if len(there) != len(tokens):
            twice = sorted(token for token in there if tokens.count(token) > 1)
            wrong.append("%s: more than once: %s" % (self.name, ", ".join(twice[:5])))
        foreign = [token for token in there if self.states.get(token) in (None, REFUSED)]
        if foreign:
            wrong.append("%s: refused or never sent: %s" % (self.name, ", ".join(foreign[:5])))
        wrong += self.disorder(tokens)
        missing = [token for token in self.acked[:count] if token not in there]
        if missing:
            old.append("%s: %d acknowledged tokens are not there, such as %s"
                       % (self.name, len(missing), missing[0]))
        if not (body or b"").startswith(shown):
            old.append("%s: %d bytes do not begin with the %d shown before"
                       % (self.name, len(body or b""), len(shown)))
        if body is not None and generation < least:
            old.append("%s: generation %d after %d" % (self.name, generation, least))
        if not wrong and not old and body is not None and len(body) >= len(self.body):
            self.body, self.generation = body, max(self.generation, generation)
        return wrong, old

    def disorder(self, tokens):
        """A writer's acknowledged tokens are in the order in which it sent them."""
        last = {}
        for token in tokens:
            if self.states.get(token) != ACKED:
                continue
            writer, number = token.split(".")
            if last.get(writer, -1) >= int(number):
                return ["%s: token %s is out of order" % (self.name, token)]
            last[writer] = int(number)
        return []


class Journal:
    """All keys. Safe to use from several threads."""

    def __init__(self):
        self.lock = threading.Lock()
        self.keys = {}
        self.order = []
        self.violations = []
        self.stale = []  # seconds after the window's begin of each old answer within it
        self.window = None  # (from, until): when an old answer is the documented kind
        self.counts = {ACKED: 0, UNKNOWN: 0, REFUSED: 0}
        self.reads = 0

    def key(self, make, name):
        """The key of this name, which is made if it is not there."""
        with self.lock:
            if name not in self.keys:
                self.keys[name] = make(name)
                self.order.append(self.keys[name])
            return self.keys[name]

    def plan(self, key, number, author):
        """See Register and Log."""
        with self.lock:
            return key.plan(number, author)

    def settle(self, key, number, author, state, generation=None):
        """See Register and Log."""
        with self.lock:
            self.counts[state] += 1
            self.violations += key.settle(number, author, state, generation)

    def floor(self, key):
        """To be taken before a read is sent."""
        with self.lock:
            return key.floor()

    def judge(self, key, floor, body, generation, where, strict=False):
        """Judges the answer to a read. In a strict one an old answer is a write that was lost."""
        now = time.monotonic()
        with self.lock:
            self.reads += 1
            wrong, old = key.judge(floor, body, generation)
            self.violations += ["%s (read from %s)" % (what, where) for what in wrong]
            if not old:
                return
            if not strict and self.window and self.window[0] <= now <= self.window[1]:
                self.stale.append(now - self.window[0])
                return
            kind = "lost" if strict else "a stale read"
            self.violations += ["%s: %s (read from %s)" % (kind, what, where) for what in old]
