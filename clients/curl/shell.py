"""Runs curl commands in a shell, as a user would type them.

In a command, $URL is the URL of the server, $TOKEN is its token, $KV is the URL of all stores, and $STORE
is the URL of the check's store. "curl" is a shell function that runs curl silently and saves the response
in files.
"""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile

from checks import Failed, equal, short, true

URL = os.environ["STEADFAST_URL"]
TOKEN = os.environ["STEADFAST_TOKEN"]
KV = f"{URL}/resources/stores/kv"
COMMAND_SECONDS = 60

# -q makes curl ignore the user's configuration file. The output is parsed, so --output redirects the body.
PRELUDE = r"""
set -o pipefail
curl() {
  command curl -q --silent --show-error --noproxy '*' --max-time 50 --dump-header "$HEADERS" \
    --output "$BODY" --write-out '%{http_code} %{size_upload} %{num_connects}\n' "$@"
}
"""


class Response:
    """The response to the last curl in a command."""

    def __init__(self, command, done, headers, body):
        self.command = " ".join(command.split())
        self.log = done.stderr.decode(errors="replace")
        self.exit = done.returncode
        self.writeouts = [line.split() for line in done.stdout.decode().splitlines()]
        self.body = body
        self.blocks = [block.split(b"\r\n") for block in headers.split(b"\r\n\r\n") if block]
        self.interim = [int(block[0].split()[1]) for block in self.blocks[:-1]]
        self.status = int(self.writeouts[-1][0]) if self.writeouts else 0
        self.uploaded = int(self.writeouts[-1][1]) if self.writeouts else 0
        self.headers = {}
        for line in self.blocks[-1][1:] if self.blocks else []:
            name, _, value = line.partition(b":")
            self.headers[name.decode().lower()] = value.strip().decode("latin-1")

    def json(self):
        """Returns the decoded body, which must have the content type application/json."""
        equal(self.headers.get("content-type"), "application/json", "the content type")
        return json.loads(self.body)

    def __str__(self):
        return f"{self.command} -> {self.status} {short(self.body, 300)} {self.log[-300:]}"


class Shell:
    """Runs commands in a shell whose environment contains the URL of the server."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="steadfast-curl-"))
        self._stores = []
        self._number = 0

    def version(self):
        """Returns the first line of curl --version."""
        body_json = subprocess.run(["curl", "-q", "--version"], capture_output=True, text=True)
        return body_json.stdout.splitlines()[0]

    def run(self, command, store=None, **variables):
        """Runs a command and returns the response to its last curl."""
        headers, body = self.folder / "response.headers", self.folder / "response.body"
        for file in (headers, body):
            file.unlink(missing_ok=True)
        environment = {
            **os.environ,
            "URL": URL,
            "TOKEN": TOKEN,
            "KV": KV,
            "STORE": f"{KV}/{store}",
            "HEADERS": str(headers),
            "BODY": str(body),
            **{name: str(value) for name, value in variables.items()},
        }
        try:
            done = subprocess.run(
                ["bash", "-c", PRELUDE + command],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=COMMAND_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"timed out after {COMMAND_SECONDS} s: {command}") from None
        return Response(command, done, content(headers), content(body))

    def ok(self, status, command, store=None, **variables):
        """Runs a command whose response must have this status."""
        response = self.run(command, store, **variables)
        true(response.status == status, f"expected {status}: {response}")
        equal(response.exit, 0, f"the exit status of curl ({response})")
        return response

    def refused(self, status, words, command, store=None, **variables):
        """Runs a command that must fail with a problem body whose detail contains `words`."""
        response = self.ok(status, command, store, **variables)
        body_json = response.json()
        for field in ("msg", "title", "detail"):
            true(isinstance(body_json.get(field), str) and body_json[field], f"no {field}: {response}")
        equal(body_json.get("status"), status, "the status in the body")
        true("errors" not in body_json, f"an errors field: {response}")
        for word in [words] if isinstance(words, str) else words:
            true(word.lower() in body_json["detail"].lower(), f"the detail does not contain {word!r}: {response}")
        return response

    def store(self, name=None):
        """Creates an empty store; returns its id."""
        self._number += 1
        body = json.dumps({"name": name or f"Store {self._number}"})
        command = 'curl -X POST "$KV" -H "Fastly-Key: $TOKEN" -d "$DATA"'
        return self.track(self.ok(201, command, DATA=body).json()["id"])

    def track(self, store_id):
        """Registers a store for deletion after the check."""
        self._stores.append(store_id)
        return store_id

    def file(self, name, value):
        """Writes a file to the directory in which the commands run."""
        (self.folder / name).write_bytes(value)
        return name

    def put(self, store, key, value, *options):
        """Writes a value; `key` is in its URL form."""
        self.file("put.value", value)
        words = " ".join(options)
        command = f'curl -X PUT "$STORE/keys/{key}" -H "Fastly-Key: $TOKEN" {words}'
        return self.ok(200, f"{command} --data-binary @put.value", store)

    def value(self, store, key):
        """Returns the stored bytes of an item; `key` is in its URL form."""
        return self.ok(200, f'curl "$STORE/keys/{key}" -H "Fastly-Key: $TOKEN"', store).body

    def generation(self, store, key):
        """Returns the generation of an item."""
        response = self.ok(200, f'curl -I "$STORE/keys/{key}" -H "Fastly-Key: $TOKEN"', store)
        return int(response.headers["generation"])

    def keys(self, store, query=""):
        """Returns the keys on one page."""
        command = f'curl "$STORE/keys{query}" -H "Fastly-Key: $TOKEN"'
        return self.ok(200, command, store).json()["data"]

    def clean_up(self):
        """Removes the stores that the check created."""
        created, self._stores = self._stores, []
        for store in created:
            while True:
                response = self.run('curl "$STORE/keys?limit=500" -H "Fastly-Key: $TOKEN"', store)
                keys = json.loads(response.body)["data"] if response.status == 200 else []
                if not keys:
                    break
                quoted = "\n".join(f'url = "{KV}/{store}/keys/{escaped(key)}"' for key in keys)
                self.file("delete.config", quoted.encode())
                self.run(
                    'curl -X DELETE -H "Fastly-Key: $TOKEN" --path-as-is -K delete.config', store
                )
            self.run('curl -X DELETE "$STORE" -H "Fastly-Key: $TOKEN"', store)

    def close(self):
        """Removes the directory of the commands."""
        shutil.rmtree(self.folder, ignore_errors=True)


def content(path):
    """Returns the bytes of a file, or no bytes if it does not exist."""
    return path.read_bytes() if path.exists() else b""


def escaped(key):
    """Returns a key in its URL form, with every byte escaped except ASCII letters and digits."""
    return "".join(
        chr(byte) if chr(byte).isalnum() and byte < 128 else f"%{byte:02X}" for byte in key.encode()
    )
