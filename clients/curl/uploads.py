"""Checks of large and streamed bodies: files, standard input, Expect: 100-continue, aborted uploads."""

import os

from checks import about, check, equal, true

MIB = 1024 * 1024
LIMIT = 25 * MIB
MISSING = "0000000000000000000000"
PUT = 'curl -X PUT "$STORE/keys/key" -H "Fastly-Key: $TOKEN"'


@check("an upload of 5 MB with --data-binary sends Expect and receives 100, then 200")
def _(shell):
    store = shell.store()
    value = os.urandom(5_000_000)
    shell.file("big", value)
    response = shell.ok(200, f"{PUT} -v --data-binary @big", store)
    true("> Expect: 100-continue" in response.log, "curl did not send an Expect header")
    equal(response.interim, [100], "the interim responses")
    true(shell.value(store, "key") == value, "the value differs")


@check("a rejected request with Expect is answered before its body is sent")
def _(shell):
    store = shell.store()
    shell.put(store, "kept", b"v")
    shell.file("big", bytes(5_000_000))
    shell.file("huge", bytes(LIMIT + 1))
    expect = '-H "Expect: 100-continue" --expect100-timeout 30'
    base = f'curl {expect} -X PUT --data-binary @FILE "$STORE/keys/KEY" -H "Fastly-Key: $TOKEN"'
    for what, status, command, of in (
        ("a wrong token", 401, base.replace("$TOKEN", "wrong"), store),
        ("an invalid key", 400, base.replace("KEY", "a%23b"), store),
        ("an invalid option", 400, base.replace("KEY", "KEY?add=maybe"), store),
        ("an invalid generation", 400, base + ' -H "if-generation-match: x"', store),
        ("an unknown store", 404, base, MISSING),
        ("a length above the limit", 413, base.replace("FILE", "huge"), store),
        ("an add on a key that exists", 412, base.replace("KEY", "kept?add=true"), store),
        (
            "a different generation",
            412,
            base.replace("KEY", "kept") + ' -H "if-generation-match: 5"',
            store,
        ),
        ("a generation on a missing key", 412, base + ' -H "if-generation-match: 5"', store),
    ):
        with about(what):
            response = shell.ok(status, command.replace("FILE", "big"), of)
            equal((response.interim, response.uploaded), ([], 0), "interim responses and bytes sent")
    equal(shell.keys(store), ["kept"], "the keys")


@check("the client receives the response to a rejected upload without Expect")
def _(shell):
    store = shell.store()
    shell.put(store, "kept", b"v")
    shell.file("huge", bytes(LIMIT + 1))
    base = 'curl -H "Expect:" -X PUT --data-binary @huge "$STORE/keys/key" -H "Fastly-Key: $TOKEN"'
    for round_ in range(3):
        for status, command, of in (
            (413, base, store),
            (401, base.replace("$TOKEN", "wrong"), store),
            (404, base, MISSING),
            (400, base.replace("keys/key", "keys/a%23b"), store),
            (
                412,
                base.replace("keys/key", "keys/kept?add=true").replace("huge", "put.value"),
                store,
            ),
        ):
            with about((round_, status)):
                shell.ok(status, command, of)
    equal(shell.keys(store), ["kept"], "the keys")


@check("-T uploads a file with PUT, although the command names no method")
def _(shell):
    store = shell.store()
    value = bytes(range(256)) * 5000
    shell.file("some file", value)
    shell.ok(200, 'curl -T "some file" "$STORE/keys/key" -H "Fastly-Key: $TOKEN"', store)
    equal(shell.value(store, "key"), value, "the value")
    shell.ok(200, 'curl -T "some file" "$STORE/keys/" -H "Fastly-Key: $TOKEN"', store)
    equal(
        shell.keys(store), ["key", "some file"], "the keys (curl adds the name of the file after a slash)"
    )


@check("-T - uploads standard input with chunked encoding")
def _(shell):
    store = shell.store()
    command = '| curl -v -T - "$STORE/keys/key" -H "Fastly-Key: $TOKEN"'
    response = shell.ok(200, f"(printf one; sleep 0.2; printf two) {command}", store)
    true("> Transfer-Encoding: chunked" in response.log, "curl did not use chunked encoding")
    equal(shell.value(store, "key"), b"onetwo", "the value")
    shell.ok(200, f"printf '' {command}", store)
    equal(shell.value(store, "key"), b"", "the value of an empty upload")
    value = os.urandom(3 * MIB)
    shell.file("big", value)
    shell.ok(200, f"cat big {command}", store)
    true(shell.value(store, "key") == value, "the value differs")


@check("a value of 25 MiB round-trips; one byte more returns 413, with or without Content-Length")
def _(shell):
    store = shell.store()
    value = os.urandom(LIMIT)
    shell.file("big", value)
    shell.file("huge", value + b"x")
    for upload in ("curl --data-binary @big -X PUT", "cat big | curl -T -"):
        with about(upload):
            shell.ok(200, f'{upload} "$STORE/keys/key" -H "Fastly-Key: $TOKEN"', store)
            true(shell.value(store, "key") == value, "the value differs")
    for upload in ("curl --data-binary @huge -X PUT", "cat huge | curl -T -", "curl -T huge"):
        with about(upload):
            command = f'{upload} "$STORE/keys/key" -H "Fastly-Key: $TOKEN"'
            shell.refused(413, "", command, store)
    true(shell.value(store, "key") == value, "the value was changed")


@check("-X PUT without a body stores an empty value")
def _(shell):
    store = shell.store()
    shell.put(store, "key", b"before")
    for words in ("", "-d ''", "--data-binary @/dev/null", "-H 'Content-Length: 0'"):
        with about(words):
            shell.ok(200, f"{PUT} {words}", store)
            equal(shell.value(store, "key"), b"", "the value")
            shell.put(store, "key", b"before")


@check("an upload that is aborted before its declared length or within a chunk changes nothing")
def _(shell):
    store = shell.store()
    shell.put(store, "key", b"before")
    shell.file("slow", bytes(4_000_000))
    # curl is killed, because after a timeout it would end a chunked body properly.
    killed = PUT.replace("curl", "timeout -s KILL 1 curl -q -s")
    for command in (
        f"{PUT} -H 'Content-Length: 1000' --max-time 1 -d short",
        f"(printf start; sleep 2) | {killed} -T -",
        f"(head -c 3000000 slow; sleep 2) | {killed} -T -",
        f"{killed} --limit-rate 200k --data-binary @slow",
        f"{killed} --limit-rate 200k --data-binary @slow".replace("keys/key", "keys/never"),
    ):
        with about(command):
            response = shell.run(command, store)
            true(response.exit != 0 and response.status == 0, f"the aborted upload received a response: {response}")
            equal(shell.value(store, "key"), b"before", "the value")
    equal(shell.keys(store), ["key"], "the keys")


@check("a slow upload and a slow download both complete")
def _(shell):
    store = shell.store()
    value = os.urandom(600_000)
    shell.file("slow", value)
    shell.ok(200, f"{PUT} --limit-rate 300k --data-binary @slow", store)
    command = 'curl --limit-rate 300k "$STORE/keys/key" -H "Fastly-Key: $TOKEN"'
    true(shell.ok(200, command, store).body == value, "the value differs")
