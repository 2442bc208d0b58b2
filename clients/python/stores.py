"""Checks of stores: create, list, describe, rename and delete."""

import datetime
import json
import re
import time

from fastly.exceptions import ApiException, ApiValueError, NotFoundException

from checks import Failed, about, check, equal, true
from service import ROOT, explained, refused, utc_now, when

MISSING = "0000000000000000000000"
NEWER = "15.0.0"


def fields(details):
    """Returns the names of the fields that the server sent for a store."""
    return sorted(details.to_dict())


@check("a new store has an id of 22 characters, its name and two dates")
def _(service):
    name = service.name()
    before = utc_now() - datetime.timedelta(seconds=2)
    store, status, headers = service.create(name, _return_http_data_only=False)
    equal(status, 201, "the status")
    equal(headers["content-type"], "application/json", "the content type")
    true(re.fullmatch(r"[0-9a-z]{22}", store.id), f"an unexpected id: {store.id}")
    equal(store.name, name, "the name")
    equal(fields(store), ["created_at", "id", "name", "updated_at"], "the fields")
    true(before <= when(store.created_at) <= utc_now(), f"created at {store.created_at}")
    equal(store.created_at, store.updated_at, "the time of the last update")


@check("a store can be created in every location, and the location is not returned")
def _(service):
    for location in ("US", "EU", "ASIA", "AUS"):
        store = service.create(service.name(location), location=location)
        equal(fields(store), ["created_at", "id", "name", "updated_at"], "the fields")


@check("the client rejects other locations before sending anything")
def _(service):
    name = service.name("Nowhere")
    try:
        service.create(name, location="MARS")
    except ApiValueError:
        pass
    else:
        raise Failed("the client accepted the location MARS")
    true(name not in [store.name for store in service.stores.kv_store_list().data], "a store was created")


@check("names with non-ASCII letters, spaces and punctuation round-trip")
def _(service):
    signs = "~`!@#$%^&*()=+[]{};:'\"<>,./?|\\"
    longest = ("b" * 255, "ö".join("B" * 128))
    for name in (f"{service.name()} Söre ☃ 😀", f"A{signs}{service.version}", *longest):
        with about(name):
            store = service.create(name)
            equal(store.name, name, "the name on creation")
            equal(service.stores.kv_store_get(store.id).name, name, "the name when described")


@check("an existing name returns 400 with an error that contains the name")
def _(service):
    name = service.name()
    first = service.create(name)
    error = refused(400, ApiException, service.create, name)
    explained(error, f"store with name '{name}' already exists")
    total = [store.id for store in service.stores.kv_store_list().data if store.name == name]
    equal(total, [first.id], "the stores with that name")


@check("names that differ only in case are different stores")
def _(service):
    name = service.name("Case")
    ids = [service.create(written).id for written in (name, name.upper(), name.lower())]
    equal(len(set(ids)), 3, "the number of stores")


@check("an invalid name returns 400 and creates nothing")
def _(service):
    before = service.stores.kv_store_list().meta.total
    controls = ("a\nb", "a\x00b", "a\x1fb")
    for name in ("", *controls, "c" * 256):
        with about(name):
            explained(refused(400, ApiException, service.create, name), "name")
    equal(service.stores.kv_store_list().meta.total, before, "the number of stores")


@check("creating a store without a body returns 400")
def _(service):
    explained(refused(400, ApiException, service.stores.kv_store_create))


@check("describe returns the store as it was created")
def _(service):
    created = service.create(service.name())
    got, status, headers = service.stores.kv_store_get(created.id, _return_http_data_only=False)
    equal(status, 200, "the status")
    equal(headers["content-type"], "application/json", "the content type")
    equal(got.to_dict(), created.to_dict(), "the store")


@check("describing an unknown or malformed id returns 404 with a body")
def _(service):
    for store_id in (MISSING, "x", "store_id_example", "a b", "é", "A" * 500, "%", MISSING[:-1]):
        with about(store_id):
            error = refused(404, NotFoundException, service.stores.kv_store_get, store_id)
            explained(error)
            equal(json.loads(error.body)["msg"], "Record not found", "the message")


@check("a list returns the limit and the total, and no cursor on its last page")
def _(service):
    created = [service.create(service.name()) for _ in range(3)]
    page, status, headers = service.stores.kv_store_list(_return_http_data_only=False)
    equal((status, headers["content-type"]), (200, "application/json"), "status and type")
    equal(page.meta.limit, 1000, "the limit")
    equal(page.meta.total, len(page.data), "the total")
    equal(sorted(page.meta.to_dict()), ["limit", "total"], "the fields of meta")
    listed = {store.id: store.to_dict() for store in page.data}
    for store in created:
        equal(listed.get(store.id), store.to_dict(), "a store in the list")


@check("stores are listed in the order of their names with ASCII letters in upper case")
def _(service):
    wanted = "Test,test store,test-store,teststorea,TestStoreB,testStöre,test_store".split(",")
    for name in sorted(wanted):
        service.create(name)
    got = [store.name for store in service.stores.kv_store_list().data]
    equal([name for name in got if name in wanted], wanted, "the order")


@check("a limit splits the list into pages that contain every store once")
def _(service):
    for number in range(7):
        service.create(service.name("Page" if number % 2 else "page"))
    whole = service.stores.kv_store_list()
    for limit in (1, 2, 3, 7):
        with about(f"limit {limit}"):
            ids, cursor = [], None
            while True:
                options = {} if cursor is None else {"cursor": cursor}
                page = service.stores.kv_store_list(limit=limit, **options)
                equal(page.meta.limit, limit, "the limit")
                equal(page.meta.total, whole.meta.total, "the total")
                true(0 < len(page.data) <= limit, f"{len(page.data)} stores on a page")
                ids += [store.id for store in page.data]
                cursor = page.meta.get("next_cursor")
                if cursor is None:
                    break
                true(isinstance(cursor, str) and cursor, f"the cursor {cursor!r}")
            equal(ids, [store.id for store in whole.data], "the stores of all pages")


@check("a page that ends with the last store has no cursor")
def _(service):
    service.store()
    total = int(service.stores.kv_store_list().meta.total)  # the client parses it as a float
    page = service.stores.kv_store_list(limit=total)
    equal(len(page.data), total, "the stores")
    true("next_cursor" not in page.meta.to_dict(), "an unexpected cursor")


@check("a cursor stays valid after its store is deleted or renamed")
def _(service):
    names = [service.name("Cursor") for _ in range(4)]
    created = [service.create(name) for name in sorted(names)]
    cursor = cursor_after(service, created[1].id)
    service.stores.kv_store_delete(created[1].id)
    rest = [store.id for store in service.stores.kv_store_list(cursor=cursor).data]
    equal(rest[:2], [created[2].id, created[3].id], "the stores after the deleted one")
    if service.version == NEWER:
        cursor = cursor_after(service, created[2].id)
        service.rename(created[2].id, service.name("Zzz"))
        rest = [store.id for store in service.stores.kv_store_list(cursor=cursor).data]
        equal(rest[0], created[3].id, "the store after the renamed one")


def cursor_after(service, store_id):
    """Returns the cursor of a page that ends with this store."""
    cursor = None
    while True:
        options = {} if cursor is None else {"cursor": cursor}
        page = service.stores.kv_store_list(limit=1, **options)
        cursor = page.meta.next_cursor
        if page.data[0].id == store_id:
            return cursor


@check("more than a thousand stores are listed completely and in order, in two pages")
def _(service):
    names = [f"many {number:04} {service.version}" for number in range(1005)]
    for name in reversed(names):
        service.create(name)
    first = service.stores.kv_store_list()
    equal(len(first.data), 1000, "the first page")
    true(first.meta.total >= 1005, f"a total of {first.meta.total}")
    second = service.stores.kv_store_list(cursor=first.meta.next_cursor)
    true("next_cursor" not in second.meta.to_dict(), "an unexpected third page")
    both = [store.name for store in first.data + second.data]
    equal([name for name in both if name in set(names)], names, "the stores of both pages")
    equal(len(both), first.meta.total, "the number of stores on both pages")


@check("the client rejects a limit of 0; invalid cursors and other invalid limits return 400")
def _(service):
    try:
        service.stores.kv_store_list(limit=0)
    except ApiValueError:
        pass
    else:
        raise Failed("the client sent a limit of 0")
    for cursor in ("cursor_example", "!!!!", "AAAA", "Cg==", "=", "CgdiYXRjaC0"):
        with about(cursor):
            error = refused(400, ApiException, service.stores.kv_store_list, cursor=cursor)
            explained(error, "cursor")
    for query in ("limit=0", "limit=-1", "limit=ten", "limit=1.5", "limit="):
        with about(query):
            equal(service.http("GET", f"{ROOT}?{query}").status, 400, "the status")


@check("a limit above 1000 is treated as 1000")
def _(service):
    equal(service.stores.kv_store_list(limit=5000).meta.limit, 1000, "the limit")


@check("the name filter finds only a store with exactly this name", only=NEWER)
def _(service):
    name = service.name("Filter ö+&")
    store = service.create(name)
    service.create(name + "x")
    page = service.stores.kv_store_list(name=name)
    equal([found.id for found in page.data], [store.id], "the stores found")
    equal(page.meta.total, 1, "the total")
    for other in (name.upper(), name[:-1], "no such store"):
        with about(other):
            page = service.stores.kv_store_list(name=other)
            equal((page.data, page.meta.total), ([], 0), "the stores found")
    page = service.stores.kv_store_list(name=name, limit=1)
    equal(([found.id for found in page.data], page.meta.limit), ([store.id], 1), "the result with a limit")
    true("next_cursor" not in page.meta.to_dict(), "an unexpected cursor")


@check("a rename changes the name and nothing else", only=NEWER)
def _(service):
    old, new = service.name("Old"), service.name("New")
    created = service.create(old)
    service.put(created.id, "key", "value", metadata="meta")
    generation = service.generation(created.id, "key")
    nothing, status, headers = service.rename(created.id, new, _return_http_data_only=False)
    equal((nothing, status, headers.get("content-length")), (None, 200, "0"), "the response")
    got = service.stores.kv_store_get(created.id)
    equal((got.id, got.name, got.created_at), (created.id, new, created.created_at), "the store")
    true(when(got.updated_at) >= when(created.updated_at), "updated_at decreased")
    value, kept = service.raw(created.id, "key")
    item = (value, kept["metadata"], int(kept["generation"]))
    equal(item, (b"value", "meta", generation), "the item")
    equal(service.stores.kv_store_list(name=old).data, [], "the stores with the old name")
    equal([s.id for s in service.stores.kv_store_list(name=new).data], [created.id], "the ids of the stores with the new name")
    service.create(old)  # the old name can be reused


@check("a rename updates updated_at", only=NEWER)
def _(service):
    created = service.create(service.name())
    time.sleep(1.1)
    service.rename(created.id, service.name())
    true(when(service.stores.kv_store_get(created.id).updated_at) > when(created.updated_at), "updated_at did not change")


@check("a rename to the same name, or to one that differs only in case, succeeds", only=NEWER)
def _(service):
    name = service.name("Same")
    created = service.create(name)
    for new in (name, name.upper(), name):
        equal(service.rename(created.id, new, _return_http_data_only=False)[1], 200, "the status")
        equal(service.stores.kv_store_get(created.id).name, new, "the name")


@check("a rename to an existing or invalid name returns 400; a rename of an unknown store returns 404", only=NEWER)
def _(service):
    taken = service.name()
    service.create(taken)
    name = service.name()
    created = service.create(name)
    explained(refused(400, ApiException, service.rename, created.id, taken), "already exists")
    for bad in ("", "a\tb", "d" * 256):
        with about(bad):
            explained(refused(400, ApiException, service.rename, created.id, bad), "name")
    explained(refused(400, ApiException, service.stores.kv_store_put, created.id))
    equal(service.stores.kv_store_get(created.id).name, name, "the name")
    explained(refused(404, NotFoundException, service.rename, MISSING, service.name()))


@check("deleting a store returns 204 without a body; deleting it again returns 404")
def _(service):
    store_id = service.store()
    delete = service.stores.kv_store_delete
    nothing, status, headers = delete(store_id, _return_http_data_only=False)
    equal((nothing, status), (None, 204), "the response")
    true("content-length" not in headers and "content-type" not in headers, f"headers {headers}")
    explained(refused(404, NotFoundException, service.stores.kv_store_delete, store_id))
    explained(refused(404, NotFoundException, service.stores.kv_store_get, store_id))
    explained(refused(404, NotFoundException, service.stores.kv_store_delete, MISSING))


@check("a store with items cannot be deleted, but it can be deleted immediately after its last item")
def _(service):
    store_id = service.store()
    service.put(store_id, "last", "one")
    explained(refused(409, ApiException, service.stores.kv_store_delete, store_id))
    equal(service.text(store_id, "last"), b"one", "the item")
    service.items.kv_store_delete_item(store_id, "last")
    service.stores.kv_store_delete(store_id)
    refused(404, NotFoundException, service.stores.kv_store_get, store_id)


@check("a store that contains only expired items can be deleted")
def _(service):
    store_id = service.store()
    service.put(store_id, "short", "lived", time_to_live_sec=3)
    refused(409, ApiException, service.stores.kv_store_delete, store_id)
    time.sleep(3.1)
    service.stores.kv_store_delete(store_id)


@check("a name can be reused once its store is deleted, and the new store is empty")
def _(service):
    name = service.name()
    first = service.create(name)
    service.put(first.id, "key", "old")
    service.items.kv_store_delete_item(first.id, "key")
    service.stores.kv_store_delete(first.id)
    second = service.create(name)
    true(second.id != first.id, "the id was reused")
    equal(service.keys(second.id), [], "the keys of the new store")


@check("twelve threads can create and delete stores concurrently")
def _(service):
    threads = [
        service.stores.kv_store_get(service.store("Thread"), async_req=True) for _ in range(12)
    ]
    ids = [thread.get().id for thread in threads]
    equal(len(set(ids)), 12, "the number of stores")
    for thread in [service.stores.kv_store_delete(store_id, async_req=True) for store_id in ids]:
        thread.get()
    left = {store.id for store in service.stores.kv_store_list().data}
    equal(left & set(ids), set(), "the stores that were not deleted")


@check("unknown query parameters are ignored")
def _(service):
    store_id = service.store()
    for path in (f"{ROOT}?customer_id=x&_=1", f"{ROOT}/{store_id}?customer_id=x"):
        equal(service.http("GET", path).status, 200, f"the status of {path}")
