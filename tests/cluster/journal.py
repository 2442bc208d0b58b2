"""Records requests and responses, and checks the responses for consistency.

A key is a register or a log. A register contains a number that never decreases, and the id of the
request that wrote the number. A log is only appended to. Before sending a read, a client obtains a
lower bound for the key: the response must include every write acknowledged or observed by then.
"""

import hashlib
import threading
import time

SENT, ACKNOWLEDGED, UNKNOWN, REJECTED = "sent", "acknowledged", "unknown", "rejected"
LARGE = 300_000


def value(key, number, request_id):
    """Returns the value with which a request sets a register to a number."""
    head = "%s %d %s " % (key, number, request_id)
    size = LARGE if key.startswith("put") and number % 50 == 49 else 40 + number * 37 % 700
    pad = hashlib.sha256(head.encode()).hexdigest()
    return (head + (pad * (size // len(pad) + 1))[:size]).encode()


class Register:
    """A key with a number that never decreases. It is written by a put, an add, or a put with
    if-generation-match."""

    def __init__(self, name):
        self.name = name
        self.requests = {}  # number -> request id -> state
        self.observed = set()  # (number, request id) returned by a read
        self.last_number = 0  # the highest number acknowledged or observed
        self.generation = 0  # the highest generation acknowledged or observed
        self.body = None  # the value observed with that generation, or None

    def record_invocation(self, number, request_id):
        """Records a request before it is sent; returns the value to write."""
        self.requests.setdefault(number, {})[request_id] = SENT
        return value(self.name, number, request_id)

    def record_outcome(self, number, request_id, state, generation=None):
        """Records the outcome of a request; returns the violations it reveals."""
        violations = []
        requests_by_id = self.requests[number]
        others = [other for other, was in requests_by_id.items()
                  if was == ACKNOWLEDGED and other != request_id]
        if state == ACKNOWLEDGED and others:
            violations.append("%s: number %d was acknowledged to both %s and %s"
                         % (self.name, number, others[0], request_id))
        if state == REJECTED and (number, request_id) in self.observed:
            violations.append("%s: number %d from %s was rejected but written"
                         % (self.name, number, request_id))
        requests_by_id[request_id] = state
        if state == ACKNOWLEDGED:
            self.last_number = max(self.last_number, number)
            if generation is not None and generation > self.generation:
                self.generation, self.body = generation, None
        return violations

    def lower_bound(self):
        """Returns the state that the response to a read sent from now on must include."""
        return self.last_number, self.generation

    def check_read(self, lower_bound, body, generation):
        """Returns the violations in the response to a read, and the ways in which it is stale."""
        last_number, min_generation = lower_bound
        if body is None:
            absent = "%s: absent although number %d was written" % (self.name, last_number)
            return [], [absent] if last_number else []
        try:
            name, number, request_id = body[:200].decode().split(" ", 3)[:3]
            number = int(number)
        except ValueError:
            return ["%s: no request wrote the value %r" % (self.name, body[:60])], []
        what = "%s: number %d from %s (generation %d)" % (self.name, number, request_id, generation)
        state = self.requests.get(number, {}).get(request_id)
        if name != self.name or state is None or body != value(self.name, number, request_id):
            return [what + " is a value that no request wrote"], []
        violations, stale = [], []
        if state == REJECTED:
            violations.append(what + " was rejected but written")
        for other, was in self.requests[number].items():
            if other != request_id and was == ACKNOWLEDGED:
                violations.append(what + " was read, but %s was acknowledged" % other)
        if number < last_number:
            stale.append(what + " was read after number %d" % last_number)
        if generation < min_generation:
            stale.append(what + " was read after generation %d" % min_generation)
        if generation == self.generation and self.body not in (None, body):
            violations.append(what + " has the same generation as another value")
        if not violations and not stale:
            self.observed.add((number, request_id))
            self.last_number = max(self.last_number, number)
            if generation >= self.generation:
                self.generation, self.body = generation, body
        return violations, stale


class Log:
    """A key to which tokens of the form "WRITER.NUMBER;" are appended."""

    def __init__(self, name):
        self.name = name
        self.states = {}  # token -> state
        self.acknowledged_tokens = []
        self.body = b""  # the longest observed value
        self.generation = 0

    def record_invocation(self, _number, token):
        """Records an append before it is sent; returns the bytes to append."""
        self.states[token] = SENT
        return (token + ";").encode()

    def record_outcome(self, _number, token, state, generation=None):
        """Records the outcome of an append; returns the violations it reveals."""
        self.states[token] = state
        if state == ACKNOWLEDGED:
            self.acknowledged_tokens.append(token)
            self.generation = max(self.generation, generation or 0)
        if state == REJECTED and (token + ";").encode() in self.body:
            return ["%s: token %s was rejected but written" % (self.name, token)]
        return []

    def lower_bound(self):
        """Returns the state that the response to a read sent from now on must include."""
        return len(self.acknowledged_tokens), self.generation, self.body

    def check_read(self, lower_bound, body, generation):
        """Returns the violations in the response to a read, and the ways in which it is stale."""
        count, min_generation, observed = lower_bound
        tokens = (body or b"").decode(errors="replace").split(";")
        violations, stale = [], []
        if tokens.pop():
            violations.append("%s: the value ends with a partial token" % self.name)
        present = set(tokens)
        if len(present) != len(tokens):
            duplicates = sorted(token for token in present if tokens.count(token) > 1)
            violations.append("%s: duplicate tokens: %s" % (self.name, ", ".join(duplicates[:5])))
        unexpected = [token for token in present if self.states.get(token) in (None, REJECTED)]
        if unexpected:
            violations.append("%s: tokens that were rejected or never sent: %s"
                              % (self.name, ", ".join(unexpected[:5])))
        violations += self.out_of_order(tokens)
        missing = [token for token in self.acknowledged_tokens[:count] if token not in present]
        if missing:
            stale.append("%s: %d acknowledged tokens are missing, the first is %s"
                       % (self.name, len(missing), missing[0]))
        if not (body or b"").startswith(observed):
            stale.append("%s: the value (%d bytes) does not start with the %d bytes seen before"
                         % (self.name, len(body or b""), len(observed)))
        if body is not None and generation < min_generation:
            stale.append("%s: generation %d was read after generation %d"
                         % (self.name, generation, min_generation))
        if not violations and not stale and body is not None and len(body) >= len(self.body):
            self.body, self.generation = body, max(self.generation, generation)
        return violations, stale

    def out_of_order(self, tokens):
        """Returns a violation if a writer's acknowledged tokens are not in the order sent."""
        last = {}
        for token in tokens:
            if self.states.get(token) != ACKNOWLEDGED:
                continue
            writer, number = token.split(".")
            if last.get(writer, -1) >= int(number):
                return ["%s: token %s is out of order" % (self.name, token)]
            last[writer] = int(number)
        return []


class Journal:
    """The journal of all keys. Thread-safe."""

    def __init__(self):
        self.lock = threading.Lock()
        self.keys = {}
        self.order = []
        self.violations = []
        self.stale_reads = []  # seconds from the start of the window to each stale read within it
        self.window = None  # (start, end) of the time in which stale reads are documented behaviour
        self.counts = {ACKNOWLEDGED: 0, UNKNOWN: 0, REJECTED: 0}
        self.reads = 0

    def key(self, make, name):
        """Returns the key with this name, creating it if necessary."""
        with self.lock:
            if name not in self.keys:
                self.keys[name] = make(name)
                self.order.append(self.keys[name])
            return self.keys[name]

    def record_invocation(self, key, number, request_id):
        """Records a request before it is sent; see Register and Log."""
        with self.lock:
            return key.record_invocation(number, request_id)

    def record_outcome(self, key, number, request_id, state, generation=None):
        """Records the outcome of a request; see Register and Log."""
        with self.lock:
            self.counts[state] += 1
            self.violations += key.record_outcome(number, request_id, state, generation)

    def lower_bound(self, key):
        """Returns the state that the response to a read sent from now on must include."""
        with self.lock:
            return key.lower_bound()

    def check_read(self, key, lower_bound, body, generation, where, strict=False):
        """Checks the response to a read. If `strict` is set, a stale response is a lost write."""
        now = time.monotonic()
        with self.lock:
            self.reads += 1
            violations, stale = key.check_read(lower_bound, body, generation)
            self.violations += ["%s (read from %s)" % (what, where) for what in violations]
            if not stale:
                return
            if not strict and self.window and self.window[0] <= now <= self.window[1]:
                self.stale_reads.append(now - self.window[0])
                return
            kind = "lost write" if strict else "stale read"
            self.violations += ["%s: %s (read from %s)" % (kind, what, where) for what in stale]
