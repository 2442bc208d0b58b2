"""Injects faults into a cluster under load, in rounds; see the script "run"."""

import argparse
import os
import pathlib
import random
import signal
import sys
import time

import planted_violations
from cluster import TOKEN, Cluster, wait_for
from journal import ACKNOWLEDGED, REJECTED, UNKNOWN, Journal
from workload import Workload

TTL = 20  # seconds; must equal the ttl in patroni.yml
RECOVERED_WITHIN = 120  # seconds within which writes must resume and the cluster recover


class RoundFailed(Exception):
    """The cluster did not recover in time."""


class Rounds:
    """Injects one fault per round."""

    def __init__(self, cluster, workload, seed):
        self.cluster, self.workload, self.journal = cluster, workload, workload.journal
        self.random = random.Random(seed)
        self.killed_servers = set()  # indexes of killed servers
        self.detail = ""
        # For each kind of fault, the longest gaps between acknowledged writes: a pair of the gap
        # across all servers and the gap on a single server.
        self.ack_gaps = {}
        # Seconds from each failover until every server has acknowledged a write.
        self.write_resumption = []

    def kinds(self, count):
        """Returns the faults for `count` rounds: all kinds in random order, repeated as needed."""
        all_kinds = [self.kill_primary, self.kill_standby, self.kill_etcd, self.kill_server,
                     self.freeze_primary]
        found = []
        while len(found) < count:
            self.random.shuffle(all_kinds)
            found += all_kinds
        return found[:count]

    def wait_for_writes(self, then, seconds=RECOVERED_WITHIN):
        """Waits until each live server has acknowledged a write sent after `then`."""
        def all_acknowledged():
            last_sent = self.workload.ack_gaps.last_acked_sent
            return all(last_sent[index] > then for index in range(len(last_sent))
                       if index not in self.killed_servers)
        try:
            wait_for("writes", seconds, all_acknowledged)
        except TimeoutError:
            last_sent = self.workload.ack_gaps.last_acked_sent
            silent = [self.cluster.servers[index].name for index in range(len(last_sent))
                      if index not in self.killed_servers and last_sent[index] <= then]
            raise RoundFailed("no write was acknowledged within %d s through %s"
                              % (seconds, ", ".join(silent))) from None

    def wait_for_new_leader(self, old, seconds):
        """Waits until a node other than `old` is the leader; returns that node."""
        try:
            return wait_for("a leader", seconds, lambda: self.cluster.leader(but=old))
        except TimeoutError:
            raise RoundFailed("no new leader within %d s" % seconds) from None

    def wait_until_healthy(self):
        """Waits until the cluster is healthy and every server acknowledges writes."""
        try:
            wait_for("a healthy cluster", RECOVERED_WITHIN, self.cluster.healthy)
        except TimeoutError:
            seen = {node.name: node.members() for node in self.cluster.nodes}
            raise RoundFailed("the cluster was not healthy within %d s: %s"
                              % (RECOVERED_WITHIN, seen)) from None
        self.wait_for_writes(time.monotonic())

    def leader(self):
        """Waits until a node is the leader; returns that node."""
        return wait_for("a leader", RECOVERED_WITHIN, self.cluster.leader)

    def kill_primary(self):
        """Kills the primary with SIGKILL. Restarts it within seconds, or only after a failover."""
        old = self.leader()
        backends = self.random.random() < 0.5
        restart_at_once = self.random.random() < 0.25
        then = time.monotonic()
        old.kill(backends)
        if restart_at_once:
            time.sleep(self.random.uniform(1, 5))
        else:
            new = self.wait_for_new_leader(old, TTL * 3)
            self.detail = "failover from %s to %s after %.0f s" % (
                old.name, new.name, time.monotonic() - then)
            self.wait_for_writes(time.monotonic())
            time.sleep(self.random.uniform(0, 5))
        old.start()
        self.detail = self.detail or "%s restarted before a failover" % old.name

    def kill_standby(self):
        """Kills a standby with SIGKILL."""
        leader = self.leader()
        node = self.random.choice([node for node in self.cluster.nodes if node is not leader])
        node.kill(self.random.random() < 0.5)
        self.wait_for_writes(time.monotonic())
        time.sleep(self.random.uniform(2, 10))
        node.start()
        self.detail = node.name

    def kill_etcd(self):
        """Kills an etcd member with SIGKILL."""
        member = self.random.choice(self.cluster.etcd)
        member.kill()
        self.wait_for_writes(time.monotonic())
        time.sleep(self.random.uniform(2, 10))
        member.start()
        self.detail = member.name

    def kill_server(self):
        """Kills a server with SIGKILL."""
        index = self.random.randrange(len(self.cluster.servers))
        server = self.cluster.servers[index]
        self.killed_servers.add(index)
        server.kill()
        self.wait_for_writes(time.monotonic())
        time.sleep(self.random.uniform(1, 5))
        server.start()
        self.killed_servers.discard(index)
        self.detail = server.name

    def freeze_primary(self):
        """Freezes all processes of the primary until a few seconds after the failover."""
        old = self.leader()
        then = time.monotonic()
        old.freeze()
        try:
            new = self.wait_for_new_leader(old, TTL * 3)
            led = time.monotonic()
            # The servers must abandon the frozen primary, and a new server must start without it.
            self.wait_for_writes(led)
            write_resumption = time.monotonic() - led
            self.restart_server_during_freeze()
            frozen = time.monotonic() - then
        finally:
            thawed = time.monotonic()
            self.journal.window = (thawed, thawed + TTL)
            old.resume()
        self.killed_servers.clear()
        self.write_resumption.append(write_resumption)
        self.detail = ("failover from %s to %s after %.0f s; %s was frozen for %.0f s; "
                       "every server acknowledged a write within %.1f s of the failover") % (
            old.name, new.name, led - then, old.name, frozen, write_resumption)
        self.wait_for_writes(thawed)

    def restart_server_during_freeze(self):
        """Restarts a server while the former primary is frozen. The server can only connect to
        the new primary, and writes through it must be visible through the other servers."""
        index = self.random.randrange(len(self.cluster.servers))
        server = self.cluster.servers[index]
        self.killed_servers.add(index)
        server.kill()
        try:
            server.start()
        except RuntimeError as error:
            raise RoundFailed("a server did not start with a node frozen: %s" % error) from None
        self.killed_servers.discard(index)
        self.wait_for_write_through(index, time.monotonic())

    def wait_for_write_through(self, index, then):
        """Waits until a server has acknowledged a write sent after `then`."""
        name = self.cluster.servers[index].name
        wait_for("a write through the new " + name, RECOVERED_WITHIN,
                 lambda: self.workload.ack_gaps.last_acked_sent[index] > then)
        time.sleep(self.random.uniform(1, 3))

    def round(self, number, fault):
        """Injects a fault during the workload, checks all keys and prints a summary line."""
        self.detail = ""
        before, stale_reads = dict(self.journal.counts), len(self.journal.stale_reads)
        time.sleep(self.random.uniform(2, 4))
        began = time.monotonic()
        fault()
        self.wait_until_healthy()
        healthy_after = time.monotonic() - began
        self.workload.pause()
        for index, server in enumerate(self.cluster.servers):
            if not server.alive():
                raise RoundFailed("server%d exited with status %s" % (index, server.running.poll()))
        longest = list(self.workload.ack_gaps.longest)
        self.workload.check()
        self.journal.window = None
        kind = fault.__name__
        known = self.ack_gaps.get(kind, (0, 0))
        self.ack_gaps[kind] = (max(known[0], longest[-1]), max(known[1], *longest[:-1]))
        after = self.journal.counts
        line = "%3d %-14s longest gap %5.1f s (one server %5.1f s), healthy after %5.1f s; " % (
            number, kind, longest[-1], max(longest[:-1]), healthy_after)
        line += "acks %d," % after[ACKNOWLEDGED]
        line += " unknown %d" % (after[UNKNOWN] - before[UNKNOWN])
        found = self.journal.stale_reads[stale_reads:]
        if found:
            line += "; %d stale reads, the last one %.1f s after SIGCONT" % (len(found), max(found))
        print("%s [%s]" % (line, self.detail), flush=True)
        if self.journal.violations:
            raise RoundFailed("consistency violations")
        self.workload.resume()

    def summary(self, count):
        """Prints the totals of all rounds."""
        counts = self.journal.counts
        print("\n%d rounds: %d writes acknowledged, %d unknown, %d rejected or not sent; "
              "%d reads checked; %d keys" % (
                  count, counts[ACKNOWLEDGED], counts[UNKNOWN], counts[REJECTED],
                  self.journal.reads, len(self.journal.order)))
        print("responses to writes: " + ", ".join(
            "%s: %d" % each for each in sorted(self.workload.responses.items(), key=str)))
        for kind, (overall, one) in sorted(self.ack_gaps.items()):
            print("longest gap between acknowledged writes, %s: %.1f s; on one server: %.1f s"
                  % (kind, overall, one))
        if self.write_resumption:
            print("frozen primary: every server acknowledged a write within %.1f s of the failover"
                  % max(self.write_resumption))
        print("stale reads within %d s after a frozen primary was resumed (documented): %d"
              % (TTL, len(self.journal.stale_reads)))


def run_rounds(count, seed, cluster):
    """Runs the rounds; returns the exit status."""
    began = time.monotonic()
    cluster.start()
    print("started in %.1f s" % (time.monotonic() - began), flush=True)
    journal = Journal()
    workload = Workload(cluster.servers, journal, seed)
    workload.prepare()
    workload.start()
    rounds = Rounds(cluster, workload, seed)
    failure, done = None, 0
    try:
        for done, fault in enumerate(rounds.kinds(count), 1):
            rounds.round(done, fault)
    except (RoundFailed, TimeoutError, RuntimeError) as error:
        failure = "round %d, %s %s: %s" % (done, fault.__name__, rounds.detail, error)
    workload.stopped = True
    rounds.summary(done)
    if failure is None and not journal.violations:
        print("no violations")
        return 0
    print("FAILED: %s (STEADFAST_SEED=%d)" % (failure, seed))
    for what in journal.violations[:50]:
        print("  " + what)
    if len(journal.violations) > 50:
        print("  and %d more" % (len(journal.violations) - 50))
    return 1


def serve(cluster):
    """Starts the cluster, prints the addresses, and waits for a signal."""
    cluster.start()
    print("token     %s" % TOKEN)
    for server in cluster.servers:
        print("server    http://127.0.0.1:%d" % server.port)
    for node in cluster.nodes:
        print("database  postgres://postgres@127.0.0.1:%d/postgres, Patroni http://127.0.0.1:%d"
              % (node.port, node.rest_port))
    print("Press Ctrl-C to stop the cluster and remove its data.", flush=True)
    signal.pause()


def exit_on_signal(number, _frame):
    """Raises SystemExit on a signal. The handler in main then stops the cluster."""
    sys.exit(128 + number)


def main():
    """Parses the arguments and runs the requested mode; returns the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--planted", action="store_true")
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--scratch", type=pathlib.Path)
    parser.add_argument("--python", type=pathlib.Path)
    parser.add_argument("--binary")
    parser.add_argument("rounds", type=int, nargs="?", default=20)
    args = parser.parse_args()
    if args.planted:
        return planted_violations.run()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, exit_on_signal)
    cluster = Cluster(args.scratch, args.python, args.binary)
    if args.serve:
        try:
            return serve(cluster)
        finally:
            cluster.stop()
    seed = int(os.environ.get("STEADFAST_SEED") or random.randrange(1 << 32))
    print("STEADFAST_SEED=%d" % seed, flush=True)
    try:
        return run_rounds(args.rounds, seed, cluster)
    finally:
        cluster.stop()


if __name__ == "__main__":
    sys.exit(main())
