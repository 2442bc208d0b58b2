"""The workload: writers and readers that record a journal, and the check of all keys."""

import http.client
import json
import random
import threading
import time

from cluster import TOKEN
from journal import ACKNOWLEDGED, REJECTED, UNKNOWN, Log, Register

REQUEST_TIMEOUT = 40  # seconds
READABLE_WITHIN = 90  # seconds until each key must be readable on a healthy cluster
KEYS = 4  # number of keys that a put worker uses at a time


class NotSent(Exception):
    """The connection was refused, so the request had no effect."""


class Disconnected(Exception):
    """No response to the request arrived, so its effect is unknown."""


class Client:
    """A client that keeps a connection open to one server at a time."""

    def __init__(self):
        self.port = self.connection = None

    def request(self, server, method, path, headers=None, body=None):
        """Sends a request; returns the status, the generation (or None) and the body."""
        if self.port != server.port or self.connection is None:
            self.close()
            self.port = server.port
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=REQUEST_TIMEOUT)
            try:
                connection.connect()
            except OSError as error:
                raise NotSent(str(error)) from error
            self.connection = connection
        try:
            self.connection.request(method, path, body, {"Fastly-Key": TOKEN, **(headers or {})})
            response = self.connection.getresponse()
            generation = response.getheader("generation")
            return response.status, generation and int(generation), response.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Disconnected(repr(error)) from error

    def close(self):
        """Closes the connection."""
        if self.connection is not None:
            self.connection.close()
        self.connection = None


class AckGaps:
    """The longest gaps between acknowledged writes, per server and overall."""

    def __init__(self, servers):
        self.lock = threading.Lock()
        self.last_acked_sent = [0.0] * servers  # when the last acknowledged write was sent
        self.begin(servers)

    def begin(self, servers):
        """Resets all gaps and starts measuring new ones."""
        with self.lock:
            now = time.monotonic()
            self.last = [now] * (servers + 1)
            self.longest = [0.0] * (servers + 1)  # per server, then overall

    def acknowledged(self, server, sent):
        """Records that a server acknowledged a write that was sent at the time `sent`."""
        with self.lock:
            now = time.monotonic()
            for index in (server, len(self.last) - 1):
                self.longest[index] = max(self.longest[index], now - self.last[index])
                self.last[index] = now
            self.last_acked_sent[server] = max(self.last_acked_sent[server], sent)


class Workload:
    """The worker threads, which can be paused."""

    def __init__(self, servers, journal, seed):
        self.servers, self.journal, self.seed = servers, journal, seed
        self.ack_gaps = AckGaps(len(servers))
        self.running, self.stopped = threading.Event(), False
        self.rotation = 0  # added to a worker's index to choose a server for the worker
        self.base = None
        self.workers = []
        self.responses = {}  # number of responses to writes, by status

    def prepare(self):
        """Creates the store."""
        status, _, body = Client().request(self.servers[0], "POST", "/resources/stores/kv",
                                       {"Content-Type": "application/json"}, b'{"name":"cluster"}')
        if status != 201:
            raise RuntimeError("could not create the store: %d %r" % (status, body))
        self.base = "/resources/stores/kv/%s/keys/" % json.loads(body)["id"]

    def start(self):
        """Starts all workers."""
        kinds = ([PutWorker] * 6 + [AppendWorker] * 3 + [AddWorker] * 3 + [CompareWorker] * 3
                 + [ReadWorker] * 3)
        self.running.set()
        for index, kind in enumerate(kinds):
            worker = kind(self, index)
            self.workers.append(worker)
            worker.start()

    def pause(self):
        """Pauses the workers and waits until no request is in flight."""
        self.running.clear()
        for worker in self.workers:
            worker.idle.wait()

    def resume(self):
        """Resumes the workers, each on another server than before."""
        self.rotation += 1
        self.ack_gaps.begin(len(self.servers))
        self.running.set()

    def check(self):
        """Reads every key from every server and checks the responses."""
        with self.journal.lock:
            keys = list(self.journal.order)
        threads = [threading.Thread(target=self.check_keys, args=(index, keys[part::2]))
                   for index in range(len(self.servers)) for part in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def check_keys(self, index, keys):
        """Reads the given keys from one server and checks the responses."""
        client = Client()
        for key in keys:
            end = time.monotonic() + READABLE_WITHIN
            while True:
                why = self.read(client, index, key, strict=True)
                if why is None:
                    break
                if time.monotonic() > end:
                    with self.journal.lock:
                        self.journal.violations.append(
                            "%s cannot be read from server%d: %s" % (key.name, index, why))
                    return
                time.sleep(0.2)
        client.close()

    def read(self, client, index, key, strict=False):
        """Reads a key and checks the response. Returns None, or an error if the read failed."""
        lower_bound = self.journal.lower_bound(key)
        try:
            status, generation, body = client.request(
                self.servers[index], "GET", self.base + key.name)
        except (NotSent, Disconnected) as error:
            return str(error)
        if status not in (200, 404):
            return "status %d" % status
        found = (body, generation) if status == 200 else (None, 0)
        self.journal.check_read(key, lower_bound, *found, "server%d" % index, strict)
        return None


class Worker(threading.Thread):
    """A thread that repeats `step`. It uses the same server during a round."""

    pause_seconds = 0.01

    def __init__(self, workload, index):
        super().__init__(daemon=True)
        self.workload, self.index = workload, index
        self.journal = workload.journal
        self.client, self.idle = Client(), threading.Event()
        self.random = random.Random("%d %d" % (workload.seed, index))
        self.requests_sent = 0

    def run(self):
        try:
            while not self.workload.stopped:
                if self.workload.running.is_set():
                    self.step()
                    time.sleep(self.pause_seconds * (0.5 + self.random.random()))
                else:
                    self.idle.set()
                    self.workload.running.wait()
                    self.idle.clear()
        except Exception as error:  # A failure of the test itself must be reported.
            with self.journal.lock:
                self.journal.violations.append("error in the test: %r" % error)
        finally:
            self.idle.set()

    def server(self):
        """Returns the index of this worker's current server."""
        return (self.index + self.workload.rotation) % len(self.workload.servers)

    def request_id(self):
        """Returns a unique request id."""
        self.requests_sent += 1
        return "%d.%d" % (self.index, self.requests_sent)

    def write(self, key, number, request_id, query="", headers=None):
        """Sends a write and records the outcome. Returns the outcome; None if it was not sent."""
        server, sent = self.server(), time.monotonic()
        body = self.journal.record_invocation(key, number, request_id)
        generation, state = None, UNKNOWN
        try:
            status, generation, _ = self.client.request(
                self.workload.servers[server], "PUT", self.workload.base + key.name + query,
                headers, body)
            self.count(status)
            state = {200: ACKNOWLEDGED, 412: REJECTED}.get(status, UNKNOWN)
            if 400 <= status < 500 and status != 412:
                raise RuntimeError("unexpected status %d for a write to %s" % (status, key.name))
        except Disconnected as error:
            self.count("timed out" if "imeout" in str(error) else "disconnected")
        except NotSent:
            time.sleep(0.1)
            self.journal.record_outcome(key, number, request_id, REJECTED)
            return None
        self.journal.record_outcome(key, number, request_id, state, generation)
        if state == ACKNOWLEDGED:
            self.workload.ack_gaps.acknowledged(server, sent)
        return state

    def count(self, response):
        """Counts an outcome of a write: a status, or a kind of connection error."""
        with self.workload.ack_gaps.lock:
            self.workload.responses[response] = self.workload.responses.get(response, 0) + 1


class PutWorker(Worker):
    """Puts increasing numbers into keys that no other worker writes. Abandons a key after a put
    with an unknown outcome, because that put may still take effect and overwrite a later one."""

    def __init__(self, workload, index):
        super().__init__(workload, index)
        self.keys_created, self.keys = 0, []

    def step(self):
        """Puts the next number into one of the keys."""
        while len(self.keys) < KEYS:
            name = "put-%d-%d" % (self.index, self.keys_created)
            self.keys.append([self.journal.key(Register, name), 0])
            self.keys_created += 1
        chosen = self.random.choice(self.keys)
        chosen[1] += 1
        if self.write(chosen[0], chosen[1], self.request_id()) == UNKNOWN:
            self.keys.remove(chosen)


class AppendWorker(Worker):
    """Appends to two logs that all append workers share. A new pair is used every ten seconds."""

    def step(self):
        """Appends a token to one of the two logs."""
        name = "log-%d-%d" % (time.monotonic() // 10, self.random.randrange(2))
        self.write(self.journal.key(Log, name), 0, self.request_id(), "?append=true")


class AddWorker(Worker):
    """Adds the same key at the same time as the other add workers, so that only one can succeed."""

    def step(self):
        """Waits until the next multiple of half a second and adds a key."""
        turn = time.monotonic() // 0.5 + 1
        time.sleep(max(0, turn * 0.5 - time.monotonic()))
        self.write(self.journal.key(Register, "add-%d" % turn), 1, self.request_id(), "?add=true")


class CompareWorker(Worker):
    """Increments registers that all compare workers share, using if-generation-match."""

    def step(self):
        """Reads a register and increments it with a conditional write."""
        key = self.journal.key(Register, "compare-%d" % self.random.randrange(3))
        lower_bound = self.journal.lower_bound(key)
        server = self.server()
        try:
            status, generation, body = self.client.request(
                self.workload.servers[server], "GET", self.workload.base + key.name)
        except (NotSent, Disconnected):
            time.sleep(0.1)
            return
        if status not in (200, 404):
            return
        found = (body, generation) if status == 200 else (None, 0)
        self.journal.check_read(key, lower_bound, *found, "server%d" % server)
        number = int(body.split(b" ", 2)[1]) if status == 200 else 0
        self.write(key, number + 1, self.request_id(), "", {"if-generation-match": str(found[1])})


class ReadWorker(Worker):
    """Reads recently created keys, and occasionally any key."""

    pause_seconds = 0.005

    def step(self):
        """Reads a key and checks the response."""
        with self.journal.lock:
            order = self.journal.order
            first = 0 if self.random.random() < 0.1 else max(0, len(order) - 80)
            key = order[self.random.randrange(first, len(order))] if order else None
        if key is not None and self.workload.read(self.client, self.server(), key) is not None:
            time.sleep(0.1)
