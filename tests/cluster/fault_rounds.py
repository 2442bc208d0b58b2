"""Rounds of faults in a cluster under load; see the script "run" beside this file."""

import argparse
import os
import pathlib
import random
import signal
import sys
import time

import planted
from cluster import TOKEN, Cluster, until
from journal import ACKED, REFUSED, UNKNOWN, Journal
from load import Load

TTL = 20  # as patroni.yml has it
RECOVERED_WITHIN = 120  # seconds in which writes must go on and the cluster be whole again


class Failed(Exception):
    """Something that was promised did not come."""


class Rounds:
    """The faults, one a round."""

    def __init__(self, cluster, load, seed):
        self.cluster, self.load, self.journal = cluster, load, load.journal
        self.random = random.Random(seed)
        self.down = set()  # servers that were killed
        self.note = ""
        self.pauses = {}  # the longest by kind of fault: of all servers, and of one
        self.resumed = []  # of each frozen primary: seconds from the new one to writes everywhere

    def kinds(self, count):
        """The faults of so many rounds: all of them, in another order each time around."""
        every = [self.kill_primary, self.kill_standby, self.kill_etcd, self.kill_server,
                 self.freeze_primary]
        found = []
        while len(found) < count:
            self.random.shuffle(every)
            found += every
        return found[:count]

    def writes_since(self, then, seconds=RECOVERED_WITHIN):
        """Waits until each live server has acknowledged a write that was sent since."""
        def all_have():
            newest = self.load.pauses.newest_sent
            return all(newest[index] > then for index in range(len(newest))
                       if index not in self.down)
        try:
            until("writes", seconds, all_have)
        except TimeoutError:
            newest = self.load.pauses.newest_sent
            silent = [self.cluster.servers[index].name for index in range(len(newest))
                      if index not in self.down and newest[index] <= then]
            raise Failed("no write for %d s through %s" % (seconds, ", ".join(silent))) from None

    def another_leads(self, old, seconds):
        """Waits until another node leads than this one; returns it."""
        try:
            return until("a leader", seconds, lambda: self.cluster.leader(but=old))
        except TimeoutError:
            raise Failed("no other node led within %d s" % seconds) from None

    def whole(self):
        """Waits until the cluster is as it was, and writes go on through every server."""
        try:
            until("a whole cluster", RECOVERED_WITHIN, self.cluster.healthy)
        except TimeoutError:
            seen = {node.name: node.members() for node in self.cluster.nodes}
            raise Failed("not whole within %d s: %s" % (RECOVERED_WITHIN, seen)) from None
        self.writes_since(time.monotonic())

    def leader(self):
        """The node that leads now."""
        return until("a leader", RECOVERED_WITHIN, self.cluster.leader)

    def kill_primary(self):
        """kill -9 of the primary; it is back before anything noticed, or after another leads."""
        old = self.leader()
        backends = self.random.random() < 0.5
        soon = self.random.random() < 0.25
        then = time.monotonic()
        old.kill(backends)
        if soon:
            time.sleep(self.random.uniform(1, 5))
        else:
            new = self.another_leads(old, TTL * 3)
            self.note = "%s after %s, %.0f s" % (new.name, old.name, time.monotonic() - then)
            self.writes_since(time.monotonic())
            time.sleep(self.random.uniform(0, 5))
        old.start()
        self.note = self.note or "%s came back at once" % old.name

    def kill_standby(self):
        """kill -9 of a node that does not lead."""
        leader = self.leader()
        node = self.random.choice([node for node in self.cluster.nodes if node is not leader])
        node.kill(self.random.random() < 0.5)
        self.writes_since(time.monotonic())
        time.sleep(self.random.uniform(2, 10))
        node.start()
        self.note = node.name

    def kill_etcd(self):
        """kill -9 of a member of etcd."""
        member = self.random.choice(self.cluster.etcd)
        member.kill()
        self.writes_since(time.monotonic())
        time.sleep(self.random.uniform(2, 10))
        member.start()
        self.note = member.name

    def kill_server(self):
        """kill -9 of a server."""
        index = self.random.randrange(len(self.cluster.servers))
        server = self.cluster.servers[index]
        self.down.add(index)
        server.kill()
        self.writes_since(time.monotonic())
        time.sleep(self.random.uniform(1, 5))
        server.start()
        self.down.discard(index)
        self.note = server.name

    def freeze_primary(self):
        """Stops all processes of the primary until some seconds after another leads."""
        old = self.leader()
        then = time.monotonic()
        old.freeze()
        try:
            new = self.another_leads(old, TTL * 3)
            led = time.monotonic()
            # The servers must leave it by themselves, and a new one must not need it.
            self.writes_since(led)
            resumed = time.monotonic() - led
            self.fresh_server()
            frozen = time.monotonic() - then
        finally:
            thawed = time.monotonic()
            self.journal.window = (thawed, thawed + TTL)
            old.thaw()
        self.down.clear()
        self.resumed.append(resumed)
        self.note = "%s after %s, %.0f s; frozen for %.0f s; writes through all after %.1f s" % (
            new.name, old.name, led - then, frozen, resumed)
        self.writes_since(thawed)

    def fresh_server(self):
        """Starts a server anew while the primary is frozen: it has no connection to that one, and
        its writes are what the others must not be seen to miss."""
        index = self.random.randrange(len(self.cluster.servers))
        server = self.cluster.servers[index]
        self.down.add(index)
        server.kill()
        try:
            server.start()
        except RuntimeError as error:
            raise Failed("a server did not start beside a frozen primary: %s" % error) from None
        self.down.discard(index)
        self.writes_through(index, time.monotonic())

    def writes_through(self, index, then):
        """Waits until this server has acknowledged a write that was sent since."""
        name = self.cluster.servers[index].name
        until("a write through the new " + name, RECOVERED_WITHIN,
              lambda: self.load.pauses.newest_sent[index] > then)
        time.sleep(self.random.uniform(1, 3))

    def round(self, number, fault):
        """Load, a fault, and the check of everything; prints a line."""
        self.note = ""
        before, stale = dict(self.journal.counts), len(self.journal.stale)
        time.sleep(self.random.uniform(2, 4))
        began = time.monotonic()
        fault()
        self.whole()
        whole = time.monotonic() - began
        self.load.pause()
        for index, server in enumerate(self.cluster.servers):
            if not server.alive():
                raise Failed("server%d ended by itself, status %s" % (index, server.running.poll()))
        longest = list(self.load.pauses.longest)
        self.load.check()
        self.journal.window = None
        kind = fault.__name__
        known = self.pauses.get(kind, (0, 0))
        self.pauses[kind] = (max(known[0], longest[-1]), max(known[1], *longest[:-1]))
        after = self.journal.counts
        line = "%3d %-14s pause %5.1f s (one server %5.1f s), whole after %5.1f s; acks %d," % (
            number, kind, longest[-1], max(longest[:-1]), whole, after[ACKED])
        line += " unknown %d" % (after[UNKNOWN] - before[UNKNOWN])
        found = self.journal.stale[stale:]
        if found:
            line += "; stale reads %d, the last %.1f s after SIGCONT" % (len(found), max(found))
        print("%s [%s]" % (line, self.note), flush=True)
        if self.journal.violations:
            raise Failed("the journal does not hold")
        self.load.resume()

    def summary(self, count):
        """What the rounds came to."""
        counts = self.journal.counts
        print("\n%d rounds: %d writes acknowledged, %d unknown, %d refused or not sent; "
              "%d reads checked; %d keys" % (
                  count, counts[ACKED], counts[UNKNOWN], counts[REFUSED], self.journal.reads,
                  len(self.journal.order)))
        print("answers to writes: " + ", ".join(
            "%s: %d" % each for each in sorted(self.load.answers.items(), key=str)))
        for kind, (every, one) in sorted(self.pauses.items()):
            print("longest pause of acknowledged writes, %s: %.1f s; through one server: %.1f s"
                  % (kind, every, one))
        if self.resumed:
            print("beside a frozen primary, writes through every server after another led: %.1f s"
                  % max(self.resumed))
        print("stale reads within %d s after a frozen primary went on (documented): %d"
              % (TTL, len(self.journal.stale)))


def cluster_rounds(count, seed, cluster):
    """Runs so many rounds; returns the exit status."""
    began = time.monotonic()
    cluster.start()
    print("started in %.1f s" % (time.monotonic() - began), flush=True)
    journal = Journal()
    load = Load(cluster.servers, journal, seed)
    load.prepare()
    load.start()
    rounds = Rounds(cluster, load, seed)
    failure, done = None, 0
    try:
        for done, fault in enumerate(rounds.kinds(count), 1):
            rounds.round(done, fault)
    except (Failed, TimeoutError, RuntimeError) as error:
        failure = "round %d, %s %s: %s" % (done, fault.__name__, rounds.note, error)
    load.over = True
    rounds.summary(done)
    if failure is None and not journal.violations:
        print("nothing lost")
        return 0
    print("FAILED: %s (STEADFAST_SEED=%d)" % (failure, seed))
    for what in journal.violations[:50]:
        print("  " + what)
    if len(journal.violations) > 50:
        print("  and %d more" % (len(journal.violations) - 50))
    return 1


def serve(cluster):
    """Starts the cluster and its servers, says where they are, and waits for a signal."""
    cluster.start()
    print("token     %s" % TOKEN)
    for server in cluster.servers:
        print("server    http://127.0.0.1:%d" % server.port)
    for node in cluster.nodes:
        print("database  postgres://postgres@127.0.0.1:%d/postgres, its Patroni http://127.0.0.1:%d"
              % (node.port, node.rest))
    print("Ctrl-C ends all of it and removes its data.", flush=True)
    signal.pause()


def stop(number, _frame):
    """Lets what was started be ended."""
    sys.exit(128 + number)


def main():
    """Reads the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--planted", action="store_true")
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--scratch", type=pathlib.Path)
    parser.add_argument("--python", type=pathlib.Path)
    parser.add_argument("--binary")
    parser.add_argument("rounds", type=int, nargs="?", default=20)
    args = parser.parse_args()
    if args.planted:
        return planted.run()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    cluster = Cluster(args.scratch, args.python, args.binary)
    if args.serve:
        try:
            return serve(cluster)
        finally:
            cluster.end()
    seed = int(os.environ.get("STEADFAST_SEED") or random.randrange(1 << 32))
    print("STEADFAST_SEED=%d" % seed, flush=True)
    try:
        return cluster_rounds(args.rounds, seed, cluster)
    finally:
        cluster.end()


if __name__ == "__main__":
    sys.exit(main())
