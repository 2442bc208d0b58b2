"""Runs schemathesis on the server's API description, with the root token and a read-only token."""

import collections
import json
import os
import pathlib
import subprocess
import sys
import urllib.parse
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "python"))
from checks import Failed, check, equal, run_all, log, true  # noqa: E402

URL = os.environ["STEADFAST_URL"]
ROOT = os.environ["STEADFAST_TOKEN"]
STATE = pathlib.Path(os.environ["CLIENTS_STATE"])
SEED = os.environ.get("OPENAPI_SEED", "20261128")
EXAMPLES = os.environ.get("OPENAPI_EXAMPLES", "15")
# Duration of each pass in seconds, if set.
TIME = os.environ.get("OPENAPI_SECONDS")


def request(method, path, body=None, token=ROOT):
    """Sends a request that must succeed; returns the response body."""
    fields = {"Fastly-Key": token}
    call = urllib.request.Request(URL + path, method=method, data=body, headers=fields)
    with urllib.request.urlopen(call, timeout=20) as response:
        return response.read()


class Service:
    """Represents the server and its API description."""

    def __init__(self):
        document = request("GET", "/_/openapi.json")
        self.document = json.loads(document)
        # schemathesis does not test the URL from which it loads a description, so this one is loaded from a file.
        self.file = STATE / "openapi.json"
        self.file.write_bytes(document)

    def store(self, name, *keys):
        """Creates a store with some items; returns its id."""
        store = request("POST", "/resources/stores/kv", json.dumps({"name": name}).encode())
        store = json.loads(store)["id"]
        for key in keys:
            quoted = urllib.parse.quote(key, safe="")
            request("PUT", f"/resources/stores/kv/{store}/keys/{quoted}", b"value")
        return store

    def operations(self):
        """Yields the id and the method of every operation in the description."""
        for item in self.document["paths"].values():
            for method, operation in item.items():
                if method != "parameters":
                    yield operation["operationId"], method

    def run(self, name, token, *flags):
        """Runs schemathesis; returns the number of responses by operation and status."""
        tally = STATE / f"{name}.tally"
        tally.write_text("")
        command = [
            sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml"),
            "run", str(self.file), "--url", URL, "-H", f"Fastly-Key: {token}", "--seed", SEED,
            "--max-examples", EXAMPLES, "--no-color", "--warnings", "off", "--continue-on-failure",
            *flags, *(["--max-time", TIME] if TIME else []),
        ]  # fmt: skip
        more = {
            "SCHEMATHESIS_HOOKS": "hooks",
            "PYTHONPATH": str(HERE),
            "OPENAPI_READ": self.store(f"{name} read", "a", "b/c", "d e"),
            "OPENAPI_WRITE": self.store(f"{name} write"),
            "OPENAPI_TALLY": str(tally),
        }
        log(f"  seed {SEED}, {EXAMPLES} examples per operation")
        done = subprocess.run(
            command, cwd=STATE, env={**os.environ, **more}, text=True, capture_output=True
        )
        (STATE / f"{name}.log").write_text(done.stdout + done.stderr)
        if done.returncode != 0:
            raise Failed(f"schemathesis exited with status {done.returncode}:\n{done.stdout}{done.stderr}")
        seen = collections.defaultdict(collections.Counter)
        for line in tally.read_text().splitlines():
            operation, status = line.split(" ")
            seen[operation][int(status)] += 1
        log(f"  {sum(sum(counts.values()) for counts in seen.values())} requests")
        return seen

    def clean_up(self):
        """Does nothing, because only this suite uses the server."""


@check("with the root token, every response matches the description, and invalid requests are rejected")
def root(service):
    """Checks that every operation succeeds at least once."""
    # The examples in the description are not sent, because they name stores that do not exist.
    seen = service.run("root", ROOT, "--phases", "coverage,fuzzing,stateful")
    for operation, _ in service.operations():
        success = [status for status in seen[operation] if 200 <= status < 300]
        # The root token cannot be revoked.
        refused = operation == "revokeTokenSelf" and 403 in seen[operation]
        true(success or refused, f"{operation} never succeeded: {dict(seen[operation])}")


@check("with a read-only token, every response matches the description")
def reader(service):
    """Runs all operations except the revocation of the token itself; checks that writes are rejected."""
    created = request("POST", "/_/v1/tokens", b'{"name":"reader","scope":"global:read"}')
    token = json.loads(created)["access_token"]
    flags = ["--exclude-operation-id", "revokeTokenSelf", "--phases", "coverage,fuzzing"]
    seen = service.run("reader", token, *flags)
    for operation, method in service.operations():
        statuses = set(seen[operation])
        if method != "get" and operation != "revokeTokenSelf":
            # Requests with a missing or wrong token return 401.
            equal(statuses - {401}, {403}, operation)
        elif operation in ("getBackup", "listTokens"):
            true(403 in statuses and 200 not in statuses, f"{operation}: {statuses}")
        elif method == "get":
            true(200 in statuses, f"{operation} never succeeded: {statuses}")


if __name__ == "__main__":
    sys.exit(run_all(Service()))
