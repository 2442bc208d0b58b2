"""Checks of tokens, and of endpoints other than those for stores."""

from checks import about, check, contains, equal, true
from shell import TOKEN

TIMES = ("created_at", "last_used_at")


@check("every kind of missing or wrong token returns 401")
def _(shell):
    store = shell.store()
    shell.put(store, "key", b"v")
    for words in (
        "", '-H "Fastly-Key;"', '-H "Fastly-Key: wrong"', '-H "Fastly-Key: ${TOKEN}x"',
        '-H "Fastly-Key: ${TOKEN%?}"', '-H "Authorization: Bearer $TOKEN"', '-u "x:$TOKEN"',
        '-H "Cookie: Fastly-Key=$TOKEN"', '-H "Fastly-Token: $TOKEN"',
    ):  # fmt: skip
        for request in ('"$KV"', '"$STORE/keys/key"', '-X DELETE "$STORE/keys/key"',
                        '-X PUT -d x "$STORE/keys/key"', '"$KV/nosuch"', '"$STORE/keys/a%23b"',
                        '"$URL/verify"', '"$KV?Fastly-Key=$TOKEN"'):  # fmt: skip
            with about((words, request)):
                response = shell.refused(401, "", f"curl {request} {words}", store)
                message = b'"msg":"Provided credentials are missing or invalid"'
                contains(response.body, message, "the body")
                true(TOKEN.encode() not in response.body, "the response contains the token")
    equal(shell.value(store, "key"), b"v", "the value")


@check("the token's header name is case-insensitive")
def _(shell):
    for name in ("fastly-key", "FASTLY-KEY", "Fastly-Key"):
        shell.ok(200, f'curl "$KV" -H "{name}: $TOKEN"')


@check("the OpenID configuration needs no token and is JSON")
def _(shell):
    path = "$URL/realms/fastly/.well-known/openid-configuration"
    true(isinstance(shell.ok(200, f'curl "{path}"').json(), dict), "the response is not a JSON object")


@check("verify, tokens/self and current_user describe the token")
def _(shell):
    body_json = shell.ok(200, 'curl "$URL/verify" -H "Fastly-Key: $TOKEN"').json()
    for part, fields in {
        "customer": {"id", "name"},
        "user": {"id", "name", "login"},
        "token": {"id", "name", "created_at", "expires_at", "scope"},
    }.items():
        true(fields <= set(body_json[part]), f"{part} has {body_json[part]}")
    equal(body_json["services"], {}, "the services")
    token = shell.ok(200, 'curl "$URL/tokens/self" -H "Fastly-Key: $TOKEN"').json()
    fields = (
        "id user_id customer_id name last_used_at created_at expires_at ip scopes scope services"
    )
    true(set(fields.split()) <= set(token), f"a field is missing from the token: {sorted(token)}")
    equal((token["scope"], token["scopes"], token["services"]), ("global", ["global"], []), "scope")
    equal(token["id"], body_json["token"]["id"], "the id of the token")
    user = shell.ok(200, 'curl "$URL/current_user" -H "Fastly-Key: $TOKEN"').json()
    true({"id", "login", "name", "customer_id"} <= set(user), f"a field is missing from the user: {sorted(user)}")
    equal(user["id"], token["user_id"], "the id of the user")


@check("the root token cannot be revoked")
def _(shell):
    response = shell.run('curl -X DELETE "$URL/tokens/self" -H "Fastly-Key: $TOKEN"')
    true(400 <= response.status <= 499, f"the response was {response}")
    shell.ok(200, 'curl "$KV" -H "Fastly-Key: $TOKEN"')


@check("the product is reported as enabled; enabling and disabling it change no data")
def _(shell):
    store = shell.store()
    shell.put(store, "key", b"v")
    path = '"$URL/enabled-products/v1/kv_store" -H "Fastly-Key: $TOKEN"'
    for method in ("GET", "PUT"):
        body_json = shell.ok(200, f"curl -X {method} {path}").json()
        equal(body_json["product"], {"id": "kv_store", "object": "product"}, "the product")
        equal(body_json["customer"]["object"], "customer", "the customer")
    shell.ok(204, f"curl -X DELETE {path}")
    shell.ok(200, f"curl -X PUT {path}")
    equal(shell.value(store, "key"), b"v", "the value")


@check("the former path /resources/stores/object is an alias of /resources/stores/kv")
def _(shell):
    create = 'curl -X POST "$URL/resources/stores/object" -H "Fastly-Key: $TOKEN" -d "$DATA"'
    store = shell.track(shell.ok(201, create, DATA='{"name":"Old way"}').json()["id"])
    old = f"$URL/resources/stores/object/{store}"
    shell.ok(200, f'curl -X PUT "{old}/keys/a%2Fb" -H "Fastly-Key: $TOKEN" -d v')
    equal(shell.value(store, "a%2Fb"), b"v", "the value read with the new path")
    shell.put(store, "c", b"w")
    response = shell.ok(200, f'curl "{old}/keys" -H "Fastly-Key: $TOKEN"')
    equal(response.json()["data"], ["a/b", "c"], "the keys listed with the old path")
    shell.ok(404, f'curl "{old}/keys/none" -H "Fastly-Key: $TOKEN"')
    response = shell.run(f'curl -X DELETE "{old}/" -H "Fastly-Key: $TOKEN"')
    true(400 <= response.status <= 499, f"the path with a trailing slash was accepted: {response}")
    shell.ok(409, f'curl -X DELETE "{old}" -H "Fastly-Key: $TOKEN"')


@check("health and readiness need no token")
def _(shell):
    for path in ("/healthz", "/readyz"):
        with about(path):
            shell.ok(200, f'curl "$URL{path}"')


@check("requests with HTTP/1.0, Connection: close or transfer coding are answered")
def _(shell):
    store = shell.store()
    shell.put(store, "key", b"v")
    for words in ("-0", '-H "Connection: close"', "--http1.1", "--tr-encoding"):
        with about(words):
            command = f'curl {words} "$STORE/keys/key" -H "Fastly-Key: $TOKEN"'
            equal(shell.ok(200, command, store).body, b"v", "the value")
            command = f'curl {words} -X PUT "$STORE/keys/key" -H "Fastly-Key: $TOKEN" -d v'
            shell.ok(200, command, store)
