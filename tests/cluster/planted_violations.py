"""Tests of the checker: it reports planted violations and accepts valid histories."""

import time

from journal import ACKNOWLEDGED, REJECTED, UNKNOWN, Journal, Log, Register


class Scenario:
    """A journal and a simulated store."""

    def __init__(self):
        self.journal = Journal()
        self.put = self.journal.key(Register, "put-0")
        self.log = self.journal.key(Log, "log-0")
        self.bodies = {}
        self.generation = 0

    def write(self, key, number, request_id, state, done):
        """Records a write with the given outcome, and applies it to the store if `done` is set."""
        body = self.journal.record_invocation(key, number, request_id)
        if done:
            self.generation += 1
            before = self.bodies.get(key, (b"", 0))[0] if isinstance(key, Log) else b""
            self.bodies[key] = (before + body, self.generation)
        generation = self.generation if done else None
        self.journal.record_outcome(key, number, request_id, state, generation)

    def read(self, key, found=None, lower_bound=None, strict=False):
        """Checks a read that returns `found`, or the stored value if `found` is not given."""
        body, generation = found or self.bodies.get(key, (None, 0))
        lower_bound = lower_bound or self.journal.lower_bound(key)
        self.journal.check_read(key, lower_bound, body, generation, "nowhere", strict)


def valid_history(scenario):
    """A valid history: writes with an unknown outcome, some of them applied, and a read that is
    concurrent with a write."""
    scenario.write(scenario.put, 1, "w", ACKNOWLEDGED, True)
    lower_bound, before = scenario.journal.lower_bound(scenario.put), scenario.bodies[scenario.put]
    scenario.write(scenario.put, 2, "w", UNKNOWN, True)
    scenario.read(scenario.put, before, lower_bound)
    scenario.read(scenario.put)
    scenario.write(scenario.put, 3, "w", UNKNOWN, False)
    for number, done in ((1, True), (2, True), (3, False)):
        state = UNKNOWN if number > 1 else ACKNOWLEDGED
        scenario.write(scenario.log, 0, "w.%d" % number, state, done)
    scenario.read(scenario.put, strict=True)
    scenario.read(scenario.log, strict=True)


def lost_write(scenario):
    """An acknowledged write that was not applied."""
    scenario.write(scenario.put, 1, "w", ACKNOWLEDGED, True)
    scenario.write(scenario.put, 2, "w", ACKNOWLEDGED, False)
    scenario.read(scenario.put, strict=True)


def stale_read(scenario):
    """A read that misses a write acknowledged before the read was sent."""
    scenario.write(scenario.put, 1, "w", ACKNOWLEDGED, True)
    before = scenario.bodies[scenario.put]
    scenario.write(scenario.put, 2, "w", ACKNOWLEDGED, True)
    scenario.read(scenario.put, before)


def stale_read_within_window(scenario):
    """A stale read within the documented window, which is counted and is not a violation."""
    scenario.journal.window = (time.monotonic() - 1, time.monotonic() + 60)
    stale_read(scenario)
    assert len(scenario.journal.stale_reads) == 1, "the stale read was not counted"


def stale_read_after_window(scenario):
    """A stale read after the documented window."""
    scenario.journal.window = (time.monotonic() - 60, time.monotonic() - 1)
    stale_read(scenario)


def non_monotonic_read(scenario):
    """A write with an unknown outcome that one read returns and a later read misses."""
    scenario.write(scenario.put, 1, "w", ACKNOWLEDGED, True)
    before = scenario.bodies[scenario.put]
    scenario.write(scenario.put, 2, "w", UNKNOWN, True)
    scenario.read(scenario.put)
    scenario.read(scenario.put, before)


def duplicate_append(scenario):
    """A token appended twice."""
    scenario.write(scenario.log, 0, "w.1", ACKNOWLEDGED, True)
    scenario.bodies[scenario.log] = (b"w.1;w.1;", 2)
    scenario.read(scenario.log)


def lost_append(scenario):
    """An acknowledged token that is missing."""
    scenario.write(scenario.log, 0, "w.1", ACKNOWLEDGED, True)
    scenario.write(scenario.log, 0, "w.2", ACKNOWLEDGED, False)
    scenario.read(scenario.log, strict=True)


def rejected_but_written(scenario):
    """A write that was rejected by its precondition, but applied."""
    scenario.write(scenario.put, 1, "w", REJECTED, True)
    scenario.read(scenario.put)


def two_acknowledged_writers(scenario):
    """Two requests to which the same number was acknowledged."""
    scenario.write(scenario.put, 1, "w", ACKNOWLEDGED, True)
    scenario.write(scenario.put, 1, "v", ACKNOWLEDGED, False)


def torn_value(scenario):
    """A truncated value."""
    scenario.write(scenario.put, 1, "w", ACKNOWLEDGED, True)
    body, generation = scenario.bodies[scenario.put]
    scenario.read(scenario.put, (body[:-1], generation))


def generation_regression(scenario):
    """The newest value, returned with a lower generation than was acknowledged."""
    scenario.write(scenario.put, 1, "w", ACKNOWLEDGED, True)
    scenario.write(scenario.put, 2, "w", ACKNOWLEDGED, True)
    body, generation = scenario.bodies[scenario.put]
    scenario.read(scenario.put, (body, generation - 1))


EXPECTED = (
    (valid_history, None),
    (stale_read_within_window, None),
    (lost_write, "lost write: put-0: number 1"),
    (stale_read, "stale read: put-0: number 1"),
    (stale_read_after_window, "stale read"),
    (non_monotonic_read, "stale read"),
    (duplicate_append, "duplicate tokens: w.1"),
    (lost_append, "lost write: log-0"),
    (rejected_but_written, "rejected but written"),
    (two_acknowledged_writers, "acknowledged to both w and v"),
    (torn_value, "no request wrote"),
    (generation_regression, "after generation 2"),
)


def run():
    """Runs all scenarios; returns the exit status."""
    failed = 0
    for plant, expected in EXPECTED:
        scenario = Scenario()
        plant(scenario)
        found = "; ".join(scenario.journal.violations)
        good = not found if expected is None else expected in found
        failed += not good
        verdict = "ok" if good else "FAILED"
        print("%-6s %-24s %s" % (verdict, plant.__name__, found or "no violations"))
    print("planted violations: %d of %d scenarios gave the expected result"
          % (len(EXPECTED) - failed, len(EXPECTED)))
    return 1 if failed else 0
