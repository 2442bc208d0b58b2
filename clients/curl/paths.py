"""Checks of paths with slashes, dots and escapes, as curl sends them."""

from checks import about, check, contains, equal, true


def delete(path):
    """Returns a command that sends a DELETE."""
    return f'curl -X DELETE "{path}" -H "Fastly-Key: $TOKEN"'


def still_there(shell, store, keys):
    """Checks that the store is unchanged."""
    shell.ok(200, 'curl "$STORE" -H "Fastly-Key: $TOKEN"', store)
    equal(shell.keys(store), keys, "the keys")


@check("slashes in a key need no escaping: keys/a/b/c and keys/a%2Fb%2Fc refer to the same item")
def _(shell):
    store = shell.store()
    shell.put(store, "a/b/c", b"one")
    equal(shell.value(store, "a%2Fb%2Fc"), b"one", "the value read with the escaped path")
    equal(shell.value(store, "a/b%2fc"), b"one", "the value read with a partly escaped path")
    shell.put(store, "x//y", b"two")
    shell.put(store, "trail/", b"three")
    shell.put(store, "/lead", b"four")
    equal(shell.keys(store), ["/lead", "a/b/c", "trail/", "x//y"], "the keys")
    equal(shell.value(store, "x%2F%2Fy"), b"two", "the value of the key with two slashes")
    equal(shell.value(store, "%2Flead"), b"four", "the value of the key with a leading slash")
    shell.ok(404, 'curl "$STORE/keys/trail" -H "Fastly-Key: $TOKEN"', store)
    shell.ok(404, 'curl "$STORE/keys/x/y" -H "Fastly-Key: $TOKEN"', store)
    shell.ok(204, delete("$STORE/keys/a/b/c"), store)
    equal(shell.keys(store), ["/lead", "trail/", "x//y"], "the keys after a delete")


@check("escapes are decoded exactly once, and a plus is a literal plus")
def _(shell):
    store = shell.store()
    for path, key in (
        ("a+b", "a+b"), ("c%2Bd", "c+d"), ("e%20f", "e f"), ("%2565", "%65"), ("g%252Fh", "g%2Fh"),
        ("%c3%a9", "é"), ("%C3%A8", "è"), ("%25", "%"), ("i=j&k", "i=j&k"), ("keys", "keys"),
        ("%5b%5D*", "[]*"), ("..x", "..x"), (".l", ".l"), ("m:@!$,", "m:@!$,"),
    ):  # fmt: skip
        with about(path):
            put = 'curl -g -X PUT "$STORE/keys/$KEY" -H "Fastly-Key: $TOKEN" -d v'
            shell.ok(200, put, store, KEY=path)
            equal(shell.keys(store), [key], "the keys")
            shell.ok(
                204, 'curl -g -X DELETE "$STORE/keys/$KEY" -H "Fastly-Key: $TOKEN"', store, KEY=path
            )


@check("paths that cannot be decoded return 400")
def _(shell):
    store = shell.store()
    for path in ("%", "%2", "%zz", "%ff", "%c3%28", "a%00%80", "%e2%98", "%ed%a0%80"):
        for method in ("GET", "PUT -d v", "DELETE"):
            with about((method, path)):
                command = f'curl -X {method} "$STORE/keys/{path}" -H "Fastly-Key: $TOKEN"'
                shell.refused(400, "", command, store)
    equal(shell.keys(store), [], "the keys")


AS_IS = [
    "$STORE/keys/..", "$STORE/keys/../", "$STORE/keys/../..", "$STORE/keys/.", "$STORE/keys/./",
    "$STORE/keys/%2e%2e", "$STORE/keys/%2E%2E/", "$STORE/keys/%2e", "$STORE/keys/..%2f",
    "$STORE/keys/a/..", "$STORE/keys/a/../..", "$STORE/keys/a/../../..", "$STORE/keys/a/.",
    "$STORE/keys/../keys/a", "$STORE/keys/x/../a", "$STORE/keys/./a", "$STORE/keys/.%2e/a",
    "$STORE/..", "$STORE/../", "$STORE/.", "$STORE/./", "$STORE/", "$STORE//", "$STORE/keys",
    "$STORE/keys/", "$STORE/keys//..", "$STORE/../$ID", "$STORE//keys/a",
    "$STORE/keys?force=true", "$STORE/keys/?force=true", "$STORE/keys/..?force=true",
    "$STORE/batch", "$KV", "$KV/", "$KV/../kv/$ID", "$KV/%2e%2e/kv/$ID", "$KV//$ID",
    "$URL", "$URL/", "$URL//", "$URL/resources/stores", "$URL//resources/stores/kv/$ID",
    "$URL/resources//stores/kv/$ID", "$URL/./resources/stores/kv/$ID",
    "$URL/x/../resources/stores/kv/$ID", "$URL/resources/stores/KV/$ID",
]  # fmt: skip

# Without --path-as-is, curl turns these into the path of the store, of its keys or of all stores, with a
# trailing slash.
COLLAPSED = [
    "$STORE/keys/..", "$STORE/keys/../", "$STORE/keys/../..", "$STORE/keys/.", "$STORE/keys/./",
    "$STORE/keys/a/..", "$STORE/keys/a/../..", "$STORE/keys/a/../../..",
    "$STORE/keys/..?force=true", "$STORE/keys/../../..", "$STORE/..", "$STORE/../", "$STORE/.",
    "$STORE/./", "$STORE/x/..",
]  # fmt: skip


@check("no path with extra dots or slashes writes or deletes anything, whether or not curl collapses it")
def _(shell):
    for kept in ([], ["a"]):  # A wrong request could delete an empty store, or the item in the other one.
        store = shell.store()
        for key in kept:
            shell.put(store, key, b"v")
        for option, paths in (("--path-as-is", AS_IS), ("", COLLAPSED)):
            for path in paths:
                with about((option, path, kept)):
                    for words in ("-X DELETE", "-X PUT -d x"):
                        command = f'curl {option} {words} "{path}" -H "Fastly-Key: $TOKEN"'
                        response = shell.run(command, store, ID=store)
                        true(400 <= response.status <= 499, f"status {response.status} of {words}")
                    still_there(shell, store, kept)


@check("GET of a path with extra dots or slashes returns a 4xx or a list, but no item")
def _(shell):
    store = shell.store()
    shell.put(store, "a", b"secret")
    for path in ("$STORE/keys/..", "$STORE/keys/../keys/a", "$STORE/keys/x/../a", "$STORE/keys/./a",
                 "$STORE/keys/%2e%2e/keys/a", "$STORE/", "$STORE/keys/", "$KV/",
                 "$URL//resources/stores/kv",
                 "$STORE/keys//..", "$STORE//keys/a", "$URL/resources/stores/KV"):  # fmt: skip
        with about(path):
            response = shell.run(f'curl --path-as-is "{path}" -H "Fastly-Key: $TOKEN"', store)
            true(400 <= response.status <= 499, f"status {response.status}")
            true(b"secret" not in response.body, "the response contains the value of the item")


@check("no response is a redirect that curl -L would follow")
def _(shell):
    store = shell.store()
    for path in ("$KV/", "$STORE/", "$STORE/keys/", "$URL", "$URL/", "$URL//", "$STORE/keys//"):
        with about(path):
            response = shell.run(f'curl -L --max-redirs 0 "{path}" -H "Fastly-Key: $TOKEN"', store)
            true(400 <= response.status <= 499, f"status {response.status}")
            true("location" not in response.headers, "the response has a Location header")


@check("an unsupported method returns 405 and lists the supported ones")
def _(shell):
    store = shell.store()
    for path, wanted in (
        ("$KV", {"GET", "HEAD", "POST"}),
        ("$STORE", {"GET", "HEAD", "PUT", "DELETE"}),
        ("$STORE/keys", {"GET", "HEAD"}),
        ("$STORE/keys/k", {"GET", "HEAD", "PUT", "DELETE"}),
        ("$STORE/batch", {"PUT"}),
    ):
        for method in {"GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS"} - wanted:
            with about((method, path)):
                command = f'curl -X {method} "{path}" -H "Fastly-Key: $TOKEN"'
                response = shell.refused(405, "", command, store)
                allowed = {word.strip() for word in response.headers.get("allow", "").split(",")}
                equal(allowed, wanted, "the Allow header")


@check("an unknown path returns 404 with the message 'Record not found'")
def _(shell):
    for path in ("/", "/resources", "/resources/stores", "/resources/stores/config", "/service",
                 "/resources/stores/kv/a/b", "/resources/stores/kv/a/keysx"):  # fmt: skip
        with about(path):
            response = shell.refused(404, "", f'curl "$URL{path}" -H "Fastly-Key: $TOKEN"')
            contains(response.body, b'"msg":"Record not found"', "the body")


@check("a 1024-byte key is accepted even if all its characters are escaped; a longer key returns 400")
def _(shell):
    store = shell.store()
    put = 'curl -X PUT "$STORE/keys/$KEY" -H "Fastly-Key: $TOKEN" -d v'
    shell.ok(200, put, store, KEY="%E2%98%83" * 341 + "a")
    equal(shell.keys(store), ["☃" * 341 + "a"], "the keys")
    shell.refused(400, "1024", put, store, KEY="%E2%98%83" * 342)
    response = shell.run(put, store, KEY="k" * 20_000)
    true(400 <= response.status <= 499, f"a request line of 20 kB was accepted: {response}")
