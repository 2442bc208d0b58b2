"""Writers and readers that record the journal, and the check of all keys."""

import http.client
import json
import random
import threading
import time

from cluster import TOKEN
from journal import ACKNOWLEDGED, REJECTED, UNKNOWN, Log, Register

REQUEST_TIMEOUT = 40  # seconds
READABLE_WITHIN = 90  # seconds in which each key must be readable on a healthy cluster
KEYS = 4  # current keys of a put worker


class NotSent(Exception):
    """The connection was refused: the request had no effect."""


class Disconnected(Exception):
    """The request was sent, but no response came."""


class Client:
    """A client with a persistent connection to one server at a time."""

    def __init__(self):
        self.port = self.connection = None

    def request(self, server, method, path, headers=None, body=None):
        """Returns the status, the generation or None, and the body of the response."""
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
        """Resets the gaps; the next one starts now."""
        with self.lock:
            now = time.monotonic()
            self.last = [now] * (servers + 1)
            self.longest = [0.0] * (servers + 1)  # per server, then overall

    def acknowledged(self, server, sent):
        """Records an acknowledged write through a server."""
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
        self.rotation = 0  # offset of each worker's server
        self.base = None
        self.workers = []
        self.responses = {}  # number of write responses by status

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
        """Pauses the workers; returns once no request is in flight."""
        self.running.clear()
        for worker in self.workers:
            worker.idle.wait()

    def resume(self):
        """Resumes the workers, each on a different server."""
        self.rotation += 1
        self.ack_gaps.begin(len(self.servers))
        self.running.set()

    def check(self):
        """Reads every key through every server and checks the responses."""
        with self.journal.lock:
            keys = list(self.journal.order)
        threads = [threading.Thread(target=self.check_keys, args=(index, keys[part::2]))
                   for index in range(len(self.servers)) for part in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def check_keys(self, index, keys):
        """Reads some keys through one server and checks the responses."""
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
        """Reads a key and checks the response; returns the error if there was no response."""
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
    """A thread that repeats its step, through one server per round."""

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
                self.journal.violations.append("test failure: %r" % error)
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
        """Sends a write, records and returns its outcome; returns None if it was not sent."""
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
                raise RuntimeError("a write to %s got status %d" % (key.name, status))
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
        """Counts a response by its status."""
        with self.workload.ack_gaps.lock:
            self.workload.responses[response] = self.workload.responses.get(response, 0) + 1


class PutWorker(Worker):
    """Puts growing numbers into its own keys. After a put with an unknown outcome it abandons the
    key: that put may still take effect and would undo a later one."""

    def __init__(self, workload, index):
        super().__init__(workload, index)
        self.keys_created, self.keys = 0, []

    def step(self):
        """One put."""
        while len(self.keys) < KEYS:
            name = "put-%d-%d" % (self.index, self.keys_created)
            self.keys.append([self.journal.key(Register, name), 0])
            self.keys_created += 1
        chosen = self.random.choice(self.keys)
        chosen[1] += 1
        if self.write(chosen[0], chosen[1], self.request_id()) == UNKNOWN:
            self.keys.remove(chosen)


class AppendWorker(Worker):
    """Appends to logs shared with the other append workers; a new pair every ten seconds."""

    def step(self):
        """One append."""
        name = "log-%d-%d" % (time.monotonic() // 10, self.random.randrange(2))
        self.write(self.journal.key(Log, name), 0, self.request_id(), "?append=true")


class AddWorker(Worker):
    """Adds a key at the same time as the other add workers."""

    def step(self):
        """Waits for the next half second and adds a key."""
        turn = time.monotonic() // 0.5 + 1
        time.sleep(max(0, turn * 0.5 - time.monotonic()))
        self.write(self.journal.key(Register, "add-%d" % turn), 1, self.request_id(), "?add=true")


class CompareWorker(Worker):
    """Increments registers shared with the other compare workers, with if-generation-match."""

    def step(self):
        """One read and one conditional write."""
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
    """Reads recently written keys, and occasionally any key."""

    pause_seconds = 0.005

    def step(self):
        """One read."""
        with self.journal.lock:
            order = self.journal.order
            first = 0 if self.random.random() < 0.1 else max(0, len(order) - 80)
            key = order[self.random.randrange(first, len(order))] if order else None
        if key is not None and self.workload.read(self.client, self.server(), key) is not None:
            time.sleep(0.1)
