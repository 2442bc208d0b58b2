"""Checks of stores, with the commands from the documentation."""

import json
import re

from checks import about, check, contains, equal, true

MISSING = "0000000000000000000000"
STORE = (
    r'\{"id":"[0-9a-z]{22}","name":"NAME","created_at":"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d",'
    r'"updated_at":"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"\}'
)


def like(body, pattern, name):
    """Checks every byte of a body except ids and dates."""
    wanted = pattern.replace("NAME", re.escape(name))
    true(re.fullmatch(wanted.encode(), body), f"unexpected body: {body!r}")


@check("POST creates a store and returns 201 with four fields in the recorded order")
def _(shell):
    for header in ('-H "Content-Type: application/json" -H "Accept: application/json"', ""):
        with about(header):
            name = f"by curl {len(header)}"
            command = f'curl -i -X POST "$KV" -H "Fastly-Key: $TOKEN" {header} -d "$DATA"'
            response = shell.ok(201, command, DATA=json.dumps({"name": name}))
            body = response.body.partition(b"\r\n\r\n")[2]  # -i adds the headers before the body
            shell.track(json.loads(body)["id"])
            like(body, STORE, name)
            equal(response.headers["content-type"], "application/json", "the content type")
            for name, wanted in {"cache-control": "no-store", "pragma": "no-cache"}.items():
                equal(response.headers.get(name), wanted, name)
            true("date" in response.headers, "the response has no Date header")


@check("a name in UTF-8 and the same name with JSON escapes are treated as equal")
def _(shell):
    create = """curl -X POST "$KV" -H "Fastly-Key: $TOKEN" -d '{"name":"%s"}'"""
    created = shell.ok(201, create % "Söre ☃").json()
    shell.track(created["id"])
    equal(created["name"], "Söre ☃", "the name")
    shell.refused(400, "already exists", create % "S\\u00f6re \\u2603")


@check("GET describes a store, and HEAD returns the length of the same body")
def _(shell):
    store = shell.store("To describe")
    response = shell.ok(200, 'curl "$STORE" -H "Fastly-Key: $TOKEN"', store)
    like(response.body, STORE, "To describe")
    head = shell.ok(200, 'curl -I "$STORE" -H "Fastly-Key: $TOKEN"', store)
    equal(head.headers["content-length"], str(len(response.body)), "the length in the HEAD response")


@check("GET lists the stores with limit, total and cursor")
def _(shell):
    shell.store("Listed")
    response = shell.ok(200, 'curl "$KV" -H "Fastly-Key: $TOKEN"')
    like(response.body, r'\{"data":\[' + STORE + r'\],"meta":\{"limit":1000,"total":1\}\}', "Listed")
    shell.store("listed too")
    response = shell.ok(200, 'curl "$KV?limit=1" -H "Fastly-Key: $TOKEN"')
    meta = r'"meta":\{"limit":1,"total":2,"next_cursor":"[A-Za-z0-9+/]+=*"\}\}'
    like(response.body, r'\{"data":\[' + STORE + r"\]," + meta, "Listed")
    cursor = response.json()["meta"]["next_cursor"]
    command = 'curl -G "$KV" -d limit=1 --data-urlencode "cursor=$CURSOR" -H "Fastly-Key: $TOKEN"'
    response = shell.ok(200, command, CURSOR=cursor)
    like(response.body, r'\{"data":\[' + STORE + r'\],"meta":\{"limit":1,"total":2\}\}', "listed too")


@check("the name filter is form-encoded, so both %20 and + are spaces")
def _(shell):
    store = shell.store("a b+c ö")
    filters = (
        "--data-urlencode 'name=a b+c ö'",
        "-d name=a+b%2Bc+%C3%B6",
        "-d name=a%20b%2bc%20%c3%b6",
    )
    for words in filters:
        with about(words):
            response = shell.ok(200, f'curl -G "$KV" {words} -H "Fastly-Key: $TOKEN"')
            equal([found["id"] for found in response.json()["data"]], [store], "the stores found")
    response = shell.ok(200, 'curl "$KV?name=nothing" -H "Fastly-Key: $TOKEN"')
    equal(response.body, b'{"data":[],"meta":{"limit":1000,"total":0}}', "the body if no store matches")


@check("PUT renames a store and returns 200 with an empty body")
def _(shell):
    store = shell.store("Before")
    command = """curl -X PUT "$STORE" -H "Fastly-Key: $TOKEN" -d '{"name":"After"}'"""
    response = shell.ok(200, command, store)
    equal((response.body, response.headers.get("content-length")), (b"", "0"), "the response")
    response = shell.ok(200, 'curl "$STORE" -H "Fastly-Key: $TOKEN"', store)
    equal(response.json()["name"], "After", "the name")


@check("US, EU, ASIA and AUS are accepted as location, and other values return 400")
def _(shell):
    create = """curl -X POST "$KV?location=%s" -H "Fastly-Key: $TOKEN" -d '{"name":"In %s"}'"""
    for location in ("US", "EU", "ASIA", "AUS"):
        shell.track(shell.ok(201, create % (location, location)).json()["id"])
    for location in ("MARS", "us-east", "US%00"):
        with about(location):
            shell.refused(400, "location", create % (location, "none"))


@check("an invalid body returns 400 and creates nothing")
def _(shell):
    for body in (
        "", " ", "{", "null", "[]", '"text"', "{}", '{"name":null}', '{"name":1}', '{"name":["a"]}',
        '{"name":""}', '{"name":"a\tb"}', '{"name":"a\\u0000b"}', '{"name":"a"} x',
        "name=a", '{"name":"' + "a" * 256 + '"}', "\ufeff", '{"name":"\\ud800"}',
    ):  # fmt: skip
        with about(body):
            command = 'curl -X POST "$KV" -H "Fastly-Key: $TOKEN" -d "$DATA"'
            shell.refused(400, "", command, DATA=body)
    shell.file("latin", b'{"name":"a\xe9"}')
    command = 'curl -X POST "$KV" -H "Fastly-Key: $TOKEN" --data-binary @latin'
    shell.refused(400, "", command)
    response = shell.ok(200, 'curl "$KV" -H "Fastly-Key: $TOKEN"')
    equal(response.json()["meta"]["total"], 0, "the number of stores")


@check("DELETE returns 409 for a store with items, 204 for an empty store, and then 404")
def _(shell):
    store = shell.store()
    shell.put(store, "key", b"v")
    delete = 'curl -X DELETE "$STORE" -H "Fastly-Key: $TOKEN"'
    shell.refused(409, "", delete, store)
    shell.refused(409, "", delete.replace("$STORE", "$STORE?force=true"), store)
    shell.ok(204, 'curl -X DELETE "$STORE/keys/key" -H "Fastly-Key: $TOKEN"', store)
    response = shell.ok(204, delete, store)
    equal(response.body, b"", "the body")
    for name in ("content-length", "content-type", "transfer-encoding"):
        true(name not in response.headers, f"the response has a header {name}")
    shell.refused(404, "", delete, store)


@check("an unknown store returns 404 for every method")
def _(shell):
    for method, tail in (
        ("GET", ""), ("DELETE", ""), ("GET", "/keys"), ("GET", "/keys/k"), ("DELETE", "/keys/k"),
    ):  # fmt: skip
        with about((method, tail)):
            command = f'curl -X {method} "$STORE{tail}" -H "Fastly-Key: $TOKEN"'
            response = shell.refused(404, "", command, MISSING)
            contains(response.body, b'"msg":"Record not found"', "the body")
    for tail, data in (
        ("", '{"name":"A"}'),
        ("/keys/k", "v"),
        ("/batch", '{"key":"k","value":""}'),
    ):
        with about(tail):
            command = f'curl -X PUT "$STORE{tail}" -H "Fastly-Key: $TOKEN" -d "$DATA"'
            shell.refused(404, "", command, MISSING, DATA=data)
