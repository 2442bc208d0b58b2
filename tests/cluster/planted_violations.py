"""Tests of the test: histories with a planted fault must be reported, and one without must not."""

import time

from journal import ACKED, REFUSED, UNKNOWN, Journal, Log, Register


class Scene:
    """A journal, and a server made of what it is told to hold."""

    def __init__(self):
        self.journal = Journal()
        self.put = self.journal.key(Register, "put-0")
        self.log = self.journal.key(Log, "log-0")
        self.bodies = {}
        self.generation = 0

    def write(self, key, number, author, state, done):
        """A write that is told to have come to this, and was done or not."""
        body = self.journal.plan(key, number, author)
        if done:
            self.generation += 1
            before = self.bodies.get(key, (b"", 0))[0] if isinstance(key, Log) else b""
            self.bodies[key] = (before + body, self.generation)
        self.journal.settle(key, number, author, state, self.generation if done else None)

    def read(self, key, found=None, floor=None, strict=False):
        """A read of what is held, or of what is given."""
        body, generation = found or self.bodies.get(key, (None, 0))
        floor = floor or self.journal.floor(key)
        self.journal.judge(key, floor, body, generation, "nowhere", strict)


def sound(scene):
    """Nothing: unknown writes, done and not done, and a read that overlaps a write."""
    scene.write(scene.put, 1, "w", ACKED, True)
    floor, before = scene.journal.floor(scene.put), scene.bodies[scene.put]
    scene.write(scene.put, 2, "w", UNKNOWN, True)
    scene.read(scene.put, before, floor)
    scene.read(scene.put)
    scene.write(scene.put, 3, "w", UNKNOWN, False)
    for number, done in ((1, True), (2, True), (3, False)):
        scene.write(scene.log, 0, "w.%d" % number, UNKNOWN if number > 1 else ACKED, done)
    scene.read(scene.put, strict=True)
    scene.read(scene.log, strict=True)


def lost_write(scene):
    """A write that was acknowledged and never happened."""
    scene.write(scene.put, 1, "w", ACKED, True)
    scene.write(scene.put, 2, "w", ACKED, False)
    scene.read(scene.put, strict=True)


def stale_read(scene):
    """An answer older than what was acknowledged before it was asked for."""
    scene.write(scene.put, 1, "w", ACKED, True)
    before = scene.bodies[scene.put]
    scene.write(scene.put, 2, "w", ACKED, True)
    scene.read(scene.put, before)


def stale_after_thaw(scene):
    """The same within the documented window: counted, and no violation."""
    scene.journal.window = (time.monotonic() - 1, time.monotonic() + 60)
    stale_read(scene)
    assert len(scene.journal.stale) == 1, "the documented stale read was not counted"


def stale_after_window(scene):
    """The same when the window is over."""
    scene.journal.window = (time.monotonic() - 60, time.monotonic() - 1)
    stale_read(scene)


def read_back(scene):
    """A write that came to nothing known was shown, and then was not."""
    scene.write(scene.put, 1, "w", ACKED, True)
    before = scene.bodies[scene.put]
    scene.write(scene.put, 2, "w", UNKNOWN, True)
    scene.read(scene.put)
    scene.read(scene.put, before)


def twice(scene):
    """A token that was appended twice."""
    scene.write(scene.log, 0, "w.1", ACKED, True)
    scene.bodies[scene.log] = (b"w.1;w.1;", 2)
    scene.read(scene.log)


def lost_token(scene):
    """A token that was acknowledged and never appended."""
    scene.write(scene.log, 0, "w.1", ACKED, True)
    scene.write(scene.log, 0, "w.2", ACKED, False)
    scene.read(scene.log, strict=True)


def refused_but_written(scene):
    """A write whose condition was said not to hold, and that is there."""
    scene.write(scene.put, 1, "w", REFUSED, True)
    scene.read(scene.put)


def two_winners(scene):
    """Two authors were both told that they wrote the same number."""
    scene.write(scene.put, 1, "w", ACKED, True)
    scene.write(scene.put, 1, "v", ACKED, False)


def torn(scene):
    """A value of which the end is missing."""
    scene.write(scene.put, 1, "w", ACKED, True)
    body, generation = scene.bodies[scene.put]
    scene.read(scene.put, (body[:-1], generation))


def generation_back(scene):
    """The newest value with a generation lower than before."""
    scene.write(scene.put, 1, "w", ACKED, True)
    scene.write(scene.put, 2, "w", ACKED, True)
    body, generation = scene.bodies[scene.put]
    scene.read(scene.put, (body, generation - 1))


EXPECTED = (
    (sound, None), (stale_after_thaw, None), (lost_write, "lost: put-0: number 1"),
    (stale_read, "a stale read: put-0: number 1"), (stale_after_window, "a stale read"),
    (read_back, "a stale read"), (twice, "more than once: w.1"), (lost_token, "lost: log-0"),
    (refused_but_written, "refused but written"), (two_winners, "acknowledged to w and to v"),
    (torn, "nobody wrote"), (generation_back, "after generation 2"),
)


def run():
    """Plants each fault; returns the exit status."""
    failed = 0
    for plant, expected in EXPECTED:
        scene = Scene()
        plant(scene)
        found = "; ".join(scene.journal.violations)
        good = not found if expected is None else expected in found
        failed += not good
        print("%-6s %-20s %s" % ("ok" if good else "FAILED", plant.__name__, found or "nothing"))
    print("planted: %d of %d as expected" % (len(EXPECTED) - failed, len(EXPECTED)))
    return 1 if failed else 0
