"""Checks of batches, sent from a file or from standard input."""

import base64
import json

from checks import about, check, contains, equal, true

SUCCESS = b'{"type":"","title":"success","errors":[]}'
PUT = 'curl -X PUT "$STORE/batch" -H "Fastly-Key: $TOKEN"'
NDJSON = '-H "Content-Type: application/x-ndjson"'


def line(key, value, **fields):
    """Returns a line of a batch."""
    return json.dumps({"key": key, "value": base64.b64encode(value).decode(), **fields}) + "\n"


@check("a batch from a file returns the recorded 41 bytes")
def _(shell):
    store = shell.store()
    text = (
        line("a", b"1", metadata="mé", time_to_live_sec=60)
        + "    "
        + line("b/c", b"\x00\xff", background_fetch=True)
        + "\n\t\n"
        + line("d", b"", other={"unknown": 1}).strip()
    )
    shell.file("batch", text.encode())
    for words in (f"{NDJSON} --data-binary @batch", "--data-binary @batch", f"{NDJSON} -T batch"):
        with about(words):
            response = shell.ok(200, f"{PUT} {words}", store)
            equal(response.body, SUCCESS, "the body")
            equal(len(response.body), 41, "the length of the body")
            equal(response.headers["content-type"], "application/json", "the content type")
    response = shell.ok(200, f"cat batch | {PUT} {NDJSON} -T -", store)
    equal(response.body, SUCCESS, "the body of the response to a chunked batch")
    equal(shell.keys(store), ["a", "b/c", "d"], "the keys")
    equal(shell.value(store, "b/c"), b"\x00\xff", "a binary value")
    equal(shell.value(store, "d"), b"", "an empty value")
    response = shell.ok(200, 'curl -I "$STORE/keys/a" -H "Fastly-Key: $TOKEN"', store)
    equal(response.headers["metadata"].encode("latin-1"), "mé".encode(), "the metadata")


@check("an empty batch and a batch of blank lines succeed")
def _(shell):
    store = shell.store()
    for words in ("", "-d ''", "--data-binary $'\\n\\n  \\n'", "--data-binary $'\\r\\n'"):
        with about(words):
            equal(shell.ok(200, f"{PUT} {words}", store).body, SUCCESS, "the body")


@check("invalid lines return 400 with an index, a string code and a reason; valid lines are stored")
def _(shell):
    store = shell.store()
    shell.file(
        "batch",
        (line("a", b"1") + "\n" + '{"key":"k7","value":"!"}\nx\n' + line("b", b"2")).encode(),
    )
    response = shell.ok(400, f"{PUT} {NDJSON} --data-binary @batch", store)
    body_json = response.json()
    true(isinstance(body_json["type"], str) and isinstance(body_json["title"], str), f"type, title: {body_json}")
    errors = body_json["errors"]
    equal([error["index"] for error in errors], [2, 3], "the indexes, which count blank lines")
    equal([error["key"] for error in errors], ["k7", ""], "the keys")
    equal([error["code"] for error in errors], ["400", "400"], "the codes, which are strings")
    for error in errors:
        true(isinstance(error["reason"], str) and error["reason"], f"an error has no reason: {error}")
    contains(response.body, b'"index":2', "the body")
    equal(shell.keys(store), ["a", "b"], "the keys")


@check("lines are applied in order, so the last line for a key wins")
def _(shell):
    store = shell.store()
    shell.file("batch", "".join(line("k", str(n).encode()) for n in range(50)).encode())
    shell.ok(200, f"{PUT} --data-binary @batch", store)
    equal(shell.value(store, "k"), b"49", "the value")


@check("base64 is accepted without padding, and invalid base64 is rejected")
def _(shell):
    store = shell.store()
    shell.ok(200, f"""{PUT} -d '{{"key":"a","value":"aGk"}}'""", store)
    equal(shell.value(store, "a"), b"hi", "the value")
    for value in ("a-_b", "aGk*", "a", "aGk==", "aG k=", "====", "aGk=aGk="):
        with about(value):
            shell.ok(400, f"""{PUT} -d '{{"key":"b","value":"{value}"}}'""", store)
    equal(shell.keys(store), ["a"], "the keys")


@check("a batch with one value above the limit reports 413 for that line only")
def _(shell):
    store = shell.store()
    huge = line("huge", bytes(25 * 1024 * 1024 + 1))
    shell.file("batch", (line("a", b"1") + huge + line("b", b"2")).encode())
    response = shell.ok(413, f"{PUT} --data-binary @batch", store)
    errors = response.json()["errors"]
    equal([(error["index"], error["code"]) for error in errors], [(1, "413")], "the errors")
    equal(shell.keys(store), ["a", "b"], "the keys")


@check("an aborted batch stores only complete lines")
def _(shell):
    store = shell.store()
    text = line("a", b"1") + line("b", b"x" * 3000)[:2000]
    shell.file("part", text.encode())
    killed = PUT.replace("curl", "timeout -s KILL 1 curl -q -s")
    shell.run(f"(cat part; sleep 2) | {killed} -T -", store)
    true(shell.keys(store) in ([], ["a"]), f"the keys are {shell.keys(store)}")


@check("all 300 errors in a batch are reported")
def _(shell):
    store = shell.store()
    shell.file("batch", b'{"key":"a#b","value":""}\n' * 300)
    body_json = shell.ok(400, f"{PUT} --data-binary @batch", store).json()
    equal([error["index"] for error in body_json["errors"]], list(range(300)), "the indexes")
    equal({error["key"] for error in body_json["errors"]}, {"a#b"}, "the keys")
