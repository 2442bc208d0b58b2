"""Checks of items, with the commands from the documentation."""

import time

from checks import about, check, equal, true


@check("-d uploads a value unchanged, although curl declares it as a form")
def _(shell):
    store = shell.store()
    for value in ("v", "a=b&c=d%20+e", "%", "{}", "ümläut", "one=1"):
        with about(value):
            command = 'curl -X PUT "$STORE/keys/key" -H "Fastly-Key: $TOKEN" -d "$DATA"'
            response = shell.ok(200, command, store, DATA=value)
            equal((response.body, response.headers.get("content-length")), (b"", "0"), "the response")
            true("content-type" not in response.headers, "the response has a content type")
            equal(shell.value(store, "key"), value.encode(), "the value")


@check("the Content-Type of an upload does not affect the value and is not stored")
def _(shell):
    store = shell.store()
    for kind in ("application/json", "multipart/form-data; boundary=x", "text/plain", "", "x",
                 "application/x-www-form-urlencoded; charset=utf-8"):  # fmt: skip
        with about(kind):
            value = b"\x00\xff no json {"
            shell.put(store, "key", value, f'-H "Content-Type: {kind}"')
            response = shell.ok(200, 'curl "$STORE/keys/key" -H "Fastly-Key: $TOKEN"', store)
            equal(response.body, value, "the value")
            equal(response.headers["content-type"], "application/octet-stream", "the content type")


@check("GET returns all headers of an item, without ETag and encoding headers")
def _(shell):
    store = shell.store()
    shell.put(store, "key", b"twelve bytes", '-H "metadata: some words"')
    command = 'curl --compressed "$STORE/keys/key" -H "Fastly-Key: $TOKEN"'
    for accept in ("*/*", "application/json", "application/octet-stream", "text/html;q=0"):
        with about(accept):
            response = shell.ok(200, f'{command} -H "Accept: {accept}"', store)
            equal(response.body, b"twelve bytes", "the body")
            for name, wanted in {
                "content-type": "application/octet-stream",
                "content-length": "12",
                "stored-content-length": "12",
                "metadata": "some words",
                "cache-control": "no-store",
                "pragma": "no-cache",
            }.items():
                equal(response.headers.get(name), wanted, name)
            for name in ("etag", "content-encoding", "transfer-encoding", "vary"):
                true(name not in response.headers, f"the response has a header {name}")


@check("the response for an item without metadata contains an empty metadata header")
def _(shell):
    store = shell.store()
    shell.put(store, "key", b"v")
    response = shell.ok(200, 'curl "$STORE/keys/key" -H "Fastly-Key: $TOKEN"', store)
    lines = [line.strip().lower() for line in response.blocks[-1]]
    equal(lines.count(b"metadata:"), 1, f"the number of metadata headers in {lines}")


@check("-I returns the headers of an item without its value")
def _(shell):
    store = shell.store()
    shell.put(store, "key", b"x" * 100_000, '-H "metadata: m"')
    got = shell.ok(200, 'curl "$STORE/keys/key" -H "Fastly-Key: $TOKEN"', store)
    head = shell.ok(200, 'curl -I "$STORE/keys/key" -H "Fastly-Key: $TOKEN"', store)
    got.headers.pop("date"), head.headers.pop("date")
    equal(head.headers, got.headers, "the headers")
    equal(head.headers["content-length"], "100000", "the length")
    missing = shell.ok(404, 'curl "$STORE/keys/none" -H "Fastly-Key: $TOKEN"', store)
    head = shell.ok(404, 'curl -I "$STORE/keys/none" -H "Fastly-Key: $TOKEN"', store)
    equal(head.headers["content-length"], str(len(missing.body)), "the length of a 404")


@check("ranges are supported if the server advertises them")
def _(shell):
    store = shell.store()
    shell.put(store, "key", b"0123456789")
    plain = shell.ok(200, 'curl "$STORE/keys/key" -H "Fastly-Key: $TOKEN"', store)
    ranged = shell.run('curl -r 2-4 "$STORE/keys/key" -H "Fastly-Key: $TOKEN"', store)
    if plain.headers.get("accept-ranges") == "bytes":
        equal((ranged.status, ranged.body), (206, b"234"), "the range")
        equal(ranged.headers.get("content-range"), "bytes 2-4/10", "the Content-Range header")
        tail = shell.ok(206, 'curl -r -3 "$STORE/keys/key" -H "Fastly-Key: $TOKEN"', store)
        equal(tail.body, b"789", "the last three bytes")
        rest = shell.ok(206, 'curl -r 7- "$STORE/keys/key" -H "Fastly-Key: $TOKEN"', store)
        equal(rest.body, b"789", "the bytes from offset 7")
        beyond = shell.run('curl -r 10-20 "$STORE/keys/key" -H "Fastly-Key: $TOKEN"', store)
        equal(beyond.status, 416, "the status of a range beyond the end")
        equal(beyond.headers.get("content-range"), "bytes */10", "the Content-Range header")
    else:
        equal((ranged.status, ranged.body), (200, b"0123456789"), "the whole value")


@check("metadata in UTF-8, in Latin-1, with tabs or empty is stored as raw bytes")
def _(shell):
    store = shell.store()
    for metadata in ("mé✓ 😀".encode(), b"\xe9 \xff", b"a\tb", b"m" * 2000, b"x"):
        with about(metadata[:20]):
            shell.file("headers.txt", b"metadata: " + metadata + b"\n")
            shell.put(store, "key", b"v", "-H @headers.txt")
            response = shell.ok(200, 'curl "$STORE/keys/key" -H "Fastly-Key: $TOKEN"', store)
            equal(response.headers["metadata"].encode("latin-1"), metadata, "the metadata")
    shell.put(store, "key", b"v", "-H 'metadata;'")
    response = shell.ok(200, 'curl "$STORE/keys/key" -H "Fastly-Key: $TOKEN"', store)
    equal(response.headers["metadata"], "", "the metadata")
    put = 'curl -X PUT "$STORE/keys/key" -H "Fastly-Key: $TOKEN" -d v'
    shell.file("headers.txt", b"metadata: " + b"m" * 2001 + b"\n")
    shell.refused(400, "metadata", f"{put} -H @headers.txt", store)


@check("a write or delete with a different generation returns 412 without a body")
def _(shell):
    store = shell.store()
    shell.put(store, "key", b"one")
    first = shell.generation(store, "key")
    condition = f'-H "if-generation-match: {first}"'
    shell.put(store, "key", b"two", condition)
    put = f'curl -X PUT "$STORE/keys/key" -H "Fastly-Key: $TOKEN" -d three {condition}'
    delete = f'curl -X DELETE "$STORE/keys/key" -H "Fastly-Key: $TOKEN" {condition}'
    for command in (put, delete, put.replace("keys/key", "keys/none")):
        with about(command):
            response = shell.ok(412, command, store)
            equal((response.body, response.headers.get("content-length")), (b"", "0"), "the response")
            true("content-type" not in response.headers, "the response has a content type")
    equal(shell.value(store, "key"), b"two", "the value")


@check("an invalid generation or time to live returns 400 and changes nothing")
def _(shell):
    store = shell.store()
    put = 'curl -X PUT "$STORE/keys/key" -H "Fastly-Key: $TOKEN" -d v'
    for value in ("abc", "-1", "1.5", "0x10", "18446744073709551616", "1 2", "1e3", "٣"):
        with about(value):
            words = f"-H 'if-generation-match: {value}'"
            shell.refused(400, "if-generation-match", f"{put} {words}", store)
            delete = f'curl -X DELETE "$STORE/keys/key" -H "Fastly-Key: $TOKEN" {words}'
            shell.refused(400, "if-generation-match", delete, store)
    for value in ("abc", "-1", "1.5", "0", "4294967296", "1 2", "1s"):
        with about(value):
            command = f"{put} -H 'time_to_live_sec: {value}'"
            shell.refused(400, "time_to_live_sec", command, store)
    equal(shell.keys(store), [], "the keys")


@check("an item with time_to_live_sec expires")
def _(shell):
    store = shell.store()
    shell.put(store, "key", b"v", '-H "time_to_live_sec: 1"')
    equal(shell.value(store, "key"), b"v", "the value")
    time.sleep(1.1)
    shell.ok(404, 'curl "$STORE/keys/key" -H "Fastly-Key: $TOKEN"', store)
    equal(shell.keys(store), [], "the keys")


@check("booleans are true, t, 1, false, f or 0 in any letter case; other values return 400")
def _(shell):
    store = shell.store()
    shell.put(store, "key", b"v")
    put = 'curl -X PUT "$STORE/keys/key?%s" -H "Fastly-Key: $TOKEN" -d x'
    for query in ("add=true", "add=True", "add=TRUE", "add=1", "background_fetch=t&add=true"):
        with about(query):
            shell.ok(412, put % query, store)
    for name in ("add", "append", "prepend", "background_fetch"):
        for value in ("", "=", "=2", "=yes", "=tru", "=true%20"):
            with about(name + value):
                shell.refused(400, name, put % (name + value), store)
    equal(shell.value(store, "key"), b"v", "the value")
    for query in ("add=false", "append=False&prepend=FALSE", "unknown=1"):
        with about(query):
            shell.ok(200, put % query, store)
    for value in ("", "=", "=2"):
        delete = f'curl -X DELETE "$STORE/keys/key?force{value}" -H "Fastly-Key: $TOKEN"'
        shell.refused(400, "force", delete, store)
    equal(shell.value(store, "key"), b"x", "the value")


@check("append and prepend extend a value created by add")
def _(shell):
    store = shell.store()
    for query, value in (("add=true", "b"), ("append=true", "c"), ("prepend=true", "a")):
        put = f'curl -X PUT "$STORE/keys/key?{query}" -H "Fastly-Key: $TOKEN" -d {value}'
        shell.ok(200, put, store)
    equal(shell.value(store, "key"), b"abc", "the value")
    put = 'curl -X PUT "$STORE/keys/key?append=true&prepend=true" -H "Fastly-Key: $TOKEN" -d x'
    shell.refused(400, "", put, store)


@check("lists have the recorded bodies and honour prefix, limit, cursor and consistency")
def _(shell):
    store = shell.store()
    for key in ("apple", "banana", "blue%20berry", "dragonfruit"):
        shell.put(store, key, b"v")
    for query, wanted in (
        ("", b'{"data":["apple","banana","blue berry","dragonfruit"],"meta":{"limit":1000}}'),
        ("?limit=2",
         b'{"data":["apple","banana"],"meta":{"limit":2,"next_cursor":"CgZiYW5hbmE="}}'),
        ("?cursor=CgZiYW5hbmE%3D&limit=5",
         b'{"data":["blue berry","dragonfruit"],"meta":{"limit":5}}'),
        ("?prefix=ba", b'{"data":["banana"],"meta":{"limit":1000,"prefix":"ba"}}'),
        ("?prefix=blue+", b'{"data":["blue berry"],"meta":{"limit":1000,"prefix":"blue "}}'),
        ("?prefix=blue%20b", b'{"data":["blue berry"],"meta":{"limit":1000,"prefix":"blue b"}}'),
        ("?cursor=CgtkcmFnb25mcnVpdA%3D%3D", b'{"data":[],"meta":{"limit":1000}}'),
        ("?prefix=&cursor=&consistency=strong&limit=9999&x=y",
         b'{"data":["apple","banana","blue berry","dragonfruit"],"meta":{"limit":1000}}'),
    ):  # fmt: skip
        with about(query):
            response = shell.ok(200, f'curl "$STORE/keys{query}" -H "Fastly-Key: $TOKEN"', store)
            equal(response.body, wanted, "the body")
            equal(response.headers["content-type"], "application/json", "the content type")
    for query, word in (
        ("limit=0", "limit"), ("limit=x", "limit"), ("consistency=weak", "consistency"),
        ("cursor=%%%", ""), ("cursor=nonsense", "cursor"), ("prefix=%ff", ""),
    ):  # fmt: skip
        with about(query):
            shell.refused(400, word, f'curl "$STORE/keys?{query}" -H "Fastly-Key: $TOKEN"', store)


@check("one connection serves many requests, including those that fail")
def _(shell):
    store = shell.store()
    shell.put(store, "key", b"v")
    lines = []
    for method, tail, data in (
        ("GET", "/keys/key", None),
        ("PUT", "/keys/new", "x"),
        ("PUT", "/keys/new?add=true", "y"),
        ("GET", "/keys/none", None),
        ("DELETE", "/keys/new", None),
        ("DELETE", "/keys/new", None),
        ("PUT", "/keys/a%23b", "refused"),
        ("POST", "/keys/key", "no such method"),
        ("PUT", "/batch", '{"key":"k","value":"aGk="}'),
        ("GET", "/keys", None),
        ("GET", "", None),
    ):
        # Each request names its output files, because --next resets the earlier options.
        words = [f"-X {method} {data and f'-d {data!r}' or ''}", '-H "Fastly-Key: $TOKEN"']
        words += [f'"$STORE{tail}" -s -o next.body -w "%{{http_code}} 0 %{{num_connects}}\\n"']
        lines.append(" ".join(words))
    response = shell.run("curl " + " --next ".join(lines), store)
    statuses = [int(line[0]) for line in response.writeouts]
    equal(statuses, [200, 200, 412, 404, 204, 404, 400, 405, 200, 200, 200], "the statuses")
    equal([line[2] for line in response.writeouts], ["1"] + ["0"] * 10, "the number of new connections per request")
    equal(shell.keys(store), ["k", "key"], "the keys")
