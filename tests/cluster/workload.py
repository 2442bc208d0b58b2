"""Writers and readers that keep the journal, and the check of the whole journal."""

import http.client
import json
import random
import threading
import time

from cluster import TOKEN
from journal import ACKED, REFUSED, UNKNOWN, Log, Register

PATIENCE = 40  # seconds until a client gives up on an answer
READABLE_WITHIN = 90  # seconds in which each key must be readable when the cluster is healthy
KEYS = 4  # that a writer of puts has at a time


class NotSent(Exception):
    """Nobody took the request: nothing was done."""


class Cut(Exception):
    """The request was sent, and no answer came."""


class Client:
    """Asks one server at a time over a connection that is kept."""

    def __init__(self):
        self.port = self.connection = None

    def ask(self, server, method, path, headers=None, body=None):
        """The status, the generation or None, and the body of an answer."""
        if self.port != server.port or self.connection is None:
            self.close()
            self.port = server.port
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
            try:
                connection.connect()
            except OSError as error:
                raise NotSent(str(error)) from error
            self.connection = connection
        try:
            self.connection.request(method, path, body, {"Fastly-Key": TOKEN, **(headers or {})})
            answer = self.connection.getresponse()
            generation = answer.getheader("generation")
            return answer.status, generation and int(generation), answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Cut(repr(error)) from error

    def close(self):
        """Gives up the connection."""
        if self.connection is not None:
            self.connection.close()
        self.connection = None


class Pauses:
    """When writes were acknowledged, by each server and by any."""

    def __init__(self, servers):
        self.lock = threading.Lock()
        self.newest_sent = [0.0] * servers  # when the latest acknowledged write was sent
        self.begin(servers)

    def begin(self, servers):
        """Forgets the pauses so far; the next one counts from now."""
        with self.lock:
            now = time.monotonic()
            self.last = [now] * (servers + 1)
            self.longest = [0.0] * (servers + 1)  # by server, and of all together

    def acknowledged(self, server, sent):
        """A write through this server."""
        with self.lock:
            now = time.monotonic()
            for index in (server, len(self.last) - 1):
                self.longest[index] = max(self.longest[index], now - self.last[index])
                self.last[index] = now
            self.newest_sent[server] = max(self.newest_sent[server], sent)


class Load:
    """The threads, which can be paused."""

    def __init__(self, servers, journal, seed):
        self.servers, self.journal, self.seed = servers, journal, seed
        self.pauses = Pauses(len(servers))
        self.go, self.over = threading.Event(), False
        self.shift = 0  # moves each worker on to another server
        self.base = None
        self.workers = []
        self.answers = {}  # how often which status was the answer to a write

    def prepare(self):
        """Makes the store."""
        status, _, body = Client().ask(self.servers[0], "POST", "/resources/stores/kv",
                                       {"Content-Type": "application/json"}, b'{"name":"cluster"}')
        if status != 201:
            raise RuntimeError("the store was not made: %d %r" % (status, body))
        self.base = "/resources/stores/kv/%s/keys/" % json.loads(body)["id"]

    def start(self):
        """Starts all workers."""
        kinds = [Putter] * 6 + [Appender] * 3 + [Adder] * 3 + [Comparer] * 3 + [Reader] * 3
        self.go.set()
        for index, kind in enumerate(kinds):
            worker = kind(self, index)
            self.workers.append(worker)
            worker.start()

    def pause(self):
        """Returns once no request is under way."""
        self.go.clear()
        for worker in self.workers:
            worker.parked.wait()

    def resume(self):
        """Lets the workers go on, each with another server than before."""
        self.shift += 1
        self.pauses.begin(len(self.servers))
        self.go.set()

    def check(self):
        """Reads every key through every server, and has each answer judged."""
        with self.journal.lock:
            keys = list(self.journal.order)
        threads = [threading.Thread(target=self.check_part, args=(index, keys[part::2]))
                   for index in range(len(self.servers)) for part in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def check_part(self, index, keys):
        """Reads these keys through one server."""
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
        """Reads a key and has the answer judged; returns why there was none."""
        floor = self.journal.floor(key)
        try:
            status, generation, body = client.ask(
                self.servers[index], "GET", self.base + key.name)
        except (NotSent, Cut) as error:
            return str(error)
        if status not in (200, 404):
            return "status %d" % status
        found = (body, generation) if status == 200 else (None, 0)
        self.journal.judge(key, floor, *found, "server%d" % index, strict)
        return None


class Worker(threading.Thread):
    """Does its step again and again, through one server for a round."""

    rest = 0.01

    def __init__(self, load, index):
        super().__init__(daemon=True)
        self.load, self.index = load, index
        self.journal = load.journal
        self.client, self.parked = Client(), threading.Event()
        self.random = random.Random("%d %d" % (load.seed, index))
        self.serial = 0

    def run(self):
        try:
            while not self.load.over:
                if self.load.go.is_set():
                    self.step()
                    time.sleep(self.rest * (0.5 + self.random.random()))
                else:
                    self.parked.set()
                    self.load.go.wait()
                    self.parked.clear()
        except Exception as error:  # A fault of the test, which must not pass for silence.
            with self.journal.lock:
                self.journal.violations.append("the test itself: %r" % error)
        finally:
            self.parked.set()

    def server(self):
        """The number of the server that this worker asks in this round."""
        return (self.index + self.load.shift) % len(self.load.servers)

    def author(self):
        """A name for one request."""
        self.serial += 1
        return "%d.%d" % (self.index, self.serial)

    def write(self, key, number, author, query="", headers=None):
        """Sends a write and notes what it came to, which is returned; None if it was not sent."""
        server, sent = self.server(), time.monotonic()
        body = self.journal.plan(key, number, author)
        generation, state = None, UNKNOWN
        try:
            status, generation, _ = self.client.ask(
                self.load.servers[server], "PUT", self.load.base + key.name + query, headers, body)
            self.count(status)
            state = {200: ACKED, 412: REFUSED}.get(status, UNKNOWN)
            if 400 <= status < 500 and status != 412:
                raise RuntimeError("a write to %s was answered %d" % (key.name, status))
        except Cut as error:
            self.count("timed out" if "imeout" in str(error) else "cut")
        except NotSent:
            time.sleep(0.1)
            self.journal.settle(key, number, author, REFUSED)
            return None
        self.journal.settle(key, number, author, state, generation)
        if state == ACKED:
            self.load.pauses.acknowledged(server, sent)
        return state

    def count(self, answer):
        """Counts an answer by its status."""
        with self.load.pauses.lock:
            self.load.answers[answer] = self.load.answers.get(answer, 0) + 1


class Putter(Worker):
    """Puts growing numbers into keys of its own. After a put of which nothing is known it leaves
    the key as it is: that put may still happen, and would undo a later one."""

    def __init__(self, load, index):
        super().__init__(load, index)
        self.made, self.keys = 0, []

    def step(self):
        """One put."""
        while len(self.keys) < KEYS:
            name = "put-%d-%d" % (self.index, self.made)
            self.keys.append([self.journal.key(Register, name), 0])
            self.made += 1
        chosen = self.random.choice(self.keys)
        chosen[1] += 1
        if self.write(chosen[0], chosen[1], self.author()) == UNKNOWN:
            self.keys.remove(chosen)


class Appender(Worker):
    """Appends to logs that all appenders share, to another one every ten seconds."""

    def step(self):
        """One append."""
        name = "log-%d-%d" % (time.monotonic() // 10, self.random.randrange(2))
        self.write(self.journal.key(Log, name), 0, self.author(), "?append=true")


class Adder(Worker):
    """Adds a key that the other adders try to add at the same time."""

    def step(self):
        """Waits for the next half second, and adds."""
        turn = time.monotonic() // 0.5 + 1
        time.sleep(max(0, turn * 0.5 - time.monotonic()))
        self.write(self.journal.key(Register, "add-%d" % turn), 1, self.author(), "?add=true")


class Comparer(Worker):
    """Counts on in registers that all comparers share, by the generation that was read."""

    def step(self):
        """A read, and a write that holds only if nobody wrote since."""
        key = self.journal.key(Register, "compare-%d" % self.random.randrange(3))
        floor = self.journal.floor(key)
        server = self.server()
        try:
            status, generation, body = self.client.ask(
                self.load.servers[server], "GET", self.load.base + key.name)
        except (NotSent, Cut):
            time.sleep(0.1)
            return
        if status not in (200, 404):
            return
        found = (body, generation) if status == 200 else (None, 0)
        self.journal.judge(key, floor, *found, "server%d" % server)
        number = int(body.split(b" ", 2)[1]) if status == 200 else 0
        self.write(key, number + 1, self.author(), "", {"if-generation-match": str(found[1])})


class Reader(Worker):
    """Reads what was written lately, and now and then anything."""

    rest = 0.005

    def step(self):
        """One read."""
        with self.journal.lock:
            order = self.journal.order
            first = 0 if self.random.random() < 0.1 else max(0, len(order) - 80)
            key = order[self.random.randrange(first, len(order))] if order else None
        if key is not None and self.load.read(self.client, self.server(), key) is not None:
            time.sleep(0.1)
