"""Keys and ids that this client turns into other paths: the server must reject them and delete nothing.

The client does not escape the dots in a key, and then resolves "." and ".." as path segments. The key
".." therefore becomes the path of the store, and the store id ".." becomes the path of all stores.
"""

import fastly

from checks import Failed, about, check, equal, true
from service import ROOT, refused


def refused_somehow(what, call, *arguments, **options):
    """Makes a call that must fail with a 4xx."""
    with about(what):
        try:
            response = call(*arguments, **options)
        except fastly.ApiException as error:
            true(400 <= error.status <= 499, f"status {error.status} ({error.body!r})")
            return
        raise Failed(f"the call succeeded with {response!r}")


def still_there(service, store_id, keys):
    """Checks that the store is unchanged."""
    equal(service.stores.kv_store_get(store_id).id, store_id, "the store")
    equal(service.keys(store_id), keys, "the keys of the store")


def try_dangerous_keys(service, store_id, keys):
    """Makes every call with every key that this client turns into another path."""
    items = service.items
    for key in ("..", ".", ""):
        refused_somehow((key, "upsert"), items.kv_store_upsert_item, store_id, key, body="v")
        still_there(service, store_id, keys)
        for options in ({}, {"add": True}, {"append": True}, {"if_generation_match": 0}):
            refused_somehow(
                (key, options),
                items.kv_store_upsert_item,
                store_id,
                key,
                body='{"name":"x"}',
                **options,
            )
        refused_somehow((key, "get"), items.kv_store_get_item, store_id, key)
        for options in ({}, {"force": True}, {"force": False}):
            refused_somehow(
                (key, "delete", options), items.kv_store_delete_item, store_id, key, **options
            )
            still_there(service, store_id, keys)
    still_there(service, store_id, keys)


@check("the keys '..', '.' and '' are rejected on a store with items and delete nothing")
def _(service):
    store_id = service.store()
    service.fill(store_id, ["a", "b"])
    try_dangerous_keys(service, store_id, ["a", "b"])


@check("the keys '..', '.' and '' are rejected on an empty store and do not delete it")
def _(service):
    store_id = service.store()
    try_dangerous_keys(service, store_id, [])


@check("the store ids '..', '.' and '' are rejected and delete nothing")
def _(service):
    store_id = service.store()
    before = service.stores.kv_store_list().meta.total
    for wrong in ("..", ".", ""):
        refused_somehow((wrong, "delete"), service.stores.kv_store_delete, wrong)
        refused_somehow((wrong, "get item"), service.items.kv_store_get_item, wrong, "key")
        refused_somehow(
            (wrong, "upsert"), service.items.kv_store_upsert_item, wrong, "key", body="v"
        )
        refused_somehow(
            (wrong, "delete item"), service.items.kv_store_delete_item, wrong, "key", force=True
        )
        refused_somehow((wrong, "list keys"), service.items.kv_store_list_item_keys, wrong)
        if service.version != "8.0.0":
            refused_somehow((wrong, "rename"), service.rename, wrong, "Other name")
    still_there(service, store_id, [])
    equal(service.stores.kv_store_list().meta.total, before, "the number of stores")


@check("a store id that contains a path gives no access to the items of a store")
def _(service):
    store_id = service.store()
    service.fill(store_id, ["a"])
    for wrong in (
        f"{store_id}/keys/a",
        f"{store_id}/",
        f"{store_id}/keys",
        f"x/../{store_id}",
        f"{store_id}%2F",
    ):
        refused_somehow(wrong, service.stores.kv_store_delete, wrong)
        refused_somehow(wrong, service.items.kv_store_delete_item, wrong, "a", force=True)
    still_there(service, store_id, ["a"])


@check("a trailing slash is a different path and is rejected for every method")
def _(service):
    store_id = service.store()
    service.fill(store_id, ["a"])
    for path in (
        f"{ROOT}/{store_id}/",
        f"{ROOT}/{store_id}/keys/",
        f"{ROOT}/",
        f"{ROOT}/{store_id}/batch/",
    ):
        for method in ("GET", "HEAD", "PUT", "POST", "DELETE", "PATCH"):
            with about(f"{method} {path}"):
                status = service.http(method, path, b'{"name":"x"}').status
                true(400 <= status <= 499, f"status {status}")
    still_there(service, store_id, ["a"])


@check("PUT, POST and DELETE on the list of keys are rejected and delete nothing")
def _(service):
    store_id = service.store()
    service.fill(store_id, ["a"])
    for method in ("PUT", "DELETE", "POST"):
        with about(method):
            response = service.http(method, f"{ROOT}/{store_id}/keys?force=true", b"v")
            equal(response.status, 405, "the status")
            true("GET" in response.headers.get("allow", ""), f"allow: {response.headers.get('allow')}")
    still_there(service, store_id, ["a"])


@check("invalid bytes in a path return 400")
def _(service):
    import http.client
    from urllib.parse import urlsplit
    from service import TOKEN, URL

    store_id = service.store()
    for tail in ("%", "%2", "%zz", "a%ff", "%c3%28", "a%", "%e2%98"):
        with about(tail):
            connection = http.client.HTTPConnection(urlsplit(URL).netloc, timeout=20)
            connection.request("PUT", f"{ROOT}/{store_id}/keys/{tail}", b"v", {"Fastly-Key": TOKEN})
            equal(connection.getresponse().status, 400, "the status")
            connection.close()
    still_there(service, store_id, [])
    refused(400, fastly.ApiException, service.items.kv_store_get_item, store_id, "a/../b")
