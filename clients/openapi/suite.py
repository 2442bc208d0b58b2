"""Runs schemathesis over the server's own description, as the root and with a token that reads."""

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
from checks import Failed, check, equal, run_all, say, true  # noqa: E402

URL = os.environ["STEADFAST_URL"]
ROOT = os.environ["STEADFAST_TOKEN"]
STATE = pathlib.Path(os.environ["CLIENTS_STATE"])
SEED = os.environ.get("OPENAPI_SEED", "20261128")
EXAMPLES = os.environ.get("OPENAPI_EXAMPLES", "15")
# Seconds; with it each pass goes on until they are over.
TIME = os.environ.get("OPENAPI_SECONDS")


def ask(method, path, body=None, token=ROOT):
    """Sends a request, which must succeed; returns the body of the answer."""
    fields = {"Fastly-Key": token}
    request = urllib.request.Request(URL + path, method=method, data=body, headers=fields)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.read()


class Service:
    """A server, and its description."""

    def __init__(self):
        document = ask("GET", "/_/openapi.json")
        self.document = json.loads(document)
        # From a file: the address that it was loaded from would be left out.
        self.file = STATE / "openapi.json"
        self.file.write_bytes(document)

    def store(self, name, *keys):
        """Creates a store with some items; returns its id."""
        store = ask("POST", "/resources/stores/kv", json.dumps({"name": name}).encode())
        store = json.loads(store)["id"]
        for key in keys:
            quoted = urllib.parse.quote(key, safe="")
            ask("PUT", f"/resources/stores/kv/{store}/keys/{quoted}", b"value")
        return store

    def operations(self):
        """Every operation of the description: its id and method."""
        for item in self.document["paths"].values():
            for method, operation in item.items():
                if method != "parameters":
                    yield operation["operationId"], method

    def run(self, name, token, *flags):
        """Runs schemathesis; returns what each operation answered."""
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
        say(f"  seed {SEED}, {EXAMPLES} examples for each operation")
        done = subprocess.run(
            command, cwd=STATE, env={**os.environ, **more}, text=True, capture_output=True
        )
        (STATE / f"{name}.log").write_text(done.stdout + done.stderr)
        if done.returncode != 0:
            raise Failed(f"schemathesis ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        seen = collections.defaultdict(collections.Counter)
        for line in tally.read_text().splitlines():
            operation, status = line.split(" ")
            seen[operation][int(status)] += 1
        say(f"  {sum(sum(counts.values()) for counts in seen.values())} requests")
        return seen

    def clean_up(self):
        """Nothing to do after a check: the server is for this suite alone."""


@check("every answer to the root is described, and what breaks the rules is refused")
def root(service):
    """Every operation comes to its success."""
    # The examples in the description are for people: they name stores that are not there.
    seen = service.run("root", ROOT, "--phases", "coverage,fuzzing,stateful")
    for operation, _ in service.operations():
        success = [status for status in seen[operation] if 200 <= status < 300]
        # The root token cannot be revoked.
        refused = operation == "revokeTokenSelf" and 403 in seen[operation]
        true(success or refused, f"{operation} came to no success: {dict(seen[operation])}")


@check("every answer to a token that only reads is described")
def reader(service):
    """Everything but the end of the token in use; what writes is refused."""
    made = ask("POST", "/_/v1/tokens", b'{"name":"reader","scope":"global:read"}')
    token = json.loads(made)["access_token"]
    flags = ["--exclude-operation-id", "revokeTokenSelf", "--phases", "coverage,fuzzing"]
    seen = service.run("reader", token, *flags)
    for operation, method in service.operations():
        statuses = set(seen[operation])
        if method != "get" and operation != "revokeTokenSelf":
            # Without a token, or with a wrong one, it is a 401.
            equal(statuses - {401}, {403}, operation)
        elif operation in ("getBackup", "listTokens"):
            true(403 in statuses and 200 not in statuses, f"{operation}: {statuses}")
        elif method == "get":
            true(200 in statuses, f"{operation} came to no success: {statuses}")


if __name__ == "__main__":
    sys.exit(run_all(Service()))
