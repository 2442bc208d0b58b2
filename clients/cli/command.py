"""Runs the Fastly CLI as a user would, with a separate home directory."""

import itertools
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request

from checks import Failed, contains, equal, short, true

CLI = os.environ["FASTLY_CLI"]
URL = os.environ["STEADFAST_URL"]
TOKEN = os.environ["STEADFAST_TOKEN"]
COMMAND_SECONDS = 120


class Result:
    """The output and exit status of a command."""

    def __init__(self, arguments, done):
        self.command = short("fastly " + " ".join(arguments), 200)
        self.bytes = done.stdout
        self.out = done.stdout.decode(errors="replace")
        self.err = done.stderr.decode(errors="replace")
        self.status = done.returncode

    def __str__(self):
        return f"{self.command}\nstatus {self.status}\n{short(self.out)}\n{short(self.err)}"


class Fastly:
    """Runs commands against the server under test."""

    def __init__(self):
        self._names = itertools.count(1)
        self._stores = []
        self._folders = []
        self.home = self.folder()
        self.kept, self._folders = self._folders, []

    def environment(self, **changes):
        """Returns the environment that directs the CLI to the server; None removes a variable.

        The proxy variables name a closed port, so requests to other machines fail.
        """
        variables = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(self.home),
            "FASTLY_API_ENDPOINT": URL,
            "FASTLY_ACCOUNT_ENDPOINT": URL,
            "FASTLY_API_TOKEN": TOKEN,
            "HTTP_PROXY": "http://127.0.0.1:1",
            "HTTPS_PROXY": "http://127.0.0.1:1",
            "NO_PROXY": "127.0.0.1,localhost",
            **changes,
        }
        return {name: str(value) for name, value in variables.items() if value is not None}

    def run(self, *arguments, stdin=b"", **changes):
        """Runs a command and waits for it to exit."""
        try:
            done = subprocess.run(
                [CLI, *arguments],
                input=stdin,
                env=self.environment(**changes),
                capture_output=True,
                timeout=COMMAND_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"timed out ({COMMAND_SECONDS} s): fastly {short(arguments)}") from None
        return Result(arguments, done)

    def ok(self, *arguments, **options):
        """Runs a command that must succeed."""
        result = self.run(*arguments, **options)
        true(result.status == 0 and not result.err, f"expected success: {result}")
        return result

    def json(self, *arguments, **options):
        """Runs a command with --json and returns its parsed output."""
        result = self.ok(*arguments, "--json", **options)
        try:
            return json.loads(result.out)
        except ValueError:
            raise Failed(f"the output is not JSON: {result}") from None

    def refused(self, expected, *arguments, **options):
        """Runs a command that must fail with the text or texts `expected` on standard error."""
        result = self.run(*arguments, **options)
        true(result.status != 0, f"expected a failure: {result}")
        true(result.status == 1, f"the CLI crashed: {result}")
        expected = (expected,) if isinstance(expected, str) else expected
        for part in expected:
            contains(unfolded(result.err), part, f"the error output of {result.command}")
        return result

    def entry(self, action, store_id, *arguments, **options):
        """Runs a kv-store-entry command that must succeed."""
        return self.ok("kv-store-entry", action, "--store-id", store_id, *arguments, **options)

    def keys(self, store_id, *arguments):
        """Returns the keys of a store in the order in which they are listed."""
        return self.json("kv-store-entry", "list", "--store-id", store_id, *arguments)

    def value(self, store_id, key):
        """Returns the bytes that the CLI prints for a key."""
        return self.entry("get", store_id, "--key", key).bytes

    def described(self, store_id, key):
        """Returns the output of describe --json for a key."""
        command = ("kv-store-entry", "describe", "--store-id", store_id, "--key", key)
        return self.json(*command)

    def name(self, word="Store"):
        """Returns a store name that no other check uses."""
        return f"{word} {next(self._names)}"

    def store(self, word="Store", *arguments):
        """Creates an empty store; returns its id."""
        created = self.json("kv-store", "create", "--name", self.name(word), *arguments)
        return self.track(created["StoreID"])

    def track(self, store_id):
        """Registers a store for deletion after the check."""
        self._stores.append(store_id)
        return store_id

    def folder(self):
        """Creates an empty directory; returns its path."""
        path = pathlib.Path(tempfile.mkdtemp(prefix="steadfast-cli-"))
        self._folders.append(path)
        return path

    def http(self, method, path, body=None):
        """Sends a request without the CLI; returns the status and the body."""
        request = urllib.request.Request(
            URL + path, data=body, method=method, headers={"Fastly-Key": TOKEN}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def clean_up(self):
        """Removes the stores and directories that the check created."""
        created, self._stores = self._stores, []
        for store_id in created:
            self.run("kv-store", "delete", "--store-id", store_id, "--all", "--auto-yes")
        folders, self._folders = self._folders, []
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)

    def close(self):
        """Removes the home directory."""
        for folder in self.kept:
            shutil.rmtree(folder, ignore_errors=True)


def unfolded(text):
    """Returns the text without the line breaks that the CLI inserts into long lines."""
    return " ".join(text.split())


def one(values, what):
    """Returns the only element of `values`; fails unless there is exactly one."""
    equal(len(values), 1, what)
    return values[0]
