"""The documented examples of KvStoreApi and KvStoreItemApi, run unchanged.

The directory "documented" contains the examples from the documentation of the package (fastly 8.0.0, files
KvStoreApi.md and KvStoreItemApi.md). The checks replace the host and the token. Some checks also replace
the placeholders for a store id, a generation or a cursor, as the names of these checks state.
"""

import contextlib
import io
import pathlib

from checks import Failed, check, contains, equal, true
from service import TOKEN, URL, refused
from fastly.exceptions import NotFoundException

FOLDER = pathlib.Path(__file__).parent / "documented"
EXAMPLES = "8.0.0"


def run(name, **changes):
    """Runs one example and returns its output.

    Each keyword argument NAME=VALUE replaces the value that the example assigns to NAME.
    """
    source = (FOLDER / f"{name}.py").read_text()
    source = replace(source, 'host = "https://api.fastly.com"', f'host = "{URL}"')
    source = replace(source, "'YOUR_API_KEY'", f"'{TOKEN}'")
    for variable, value in changes.items():
        start = f"    {variable} = "
        lines = [line for line in source.splitlines() if line.startswith(start)]
        equal(len(lines), 1, f"the number of lines in {name} that set {variable}")
        source = replace(source, lines[0], f"{start}{value!r}")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(source, f"{name}.py", "exec"), {"__name__": "__main__"})
    return printed.getvalue()


def replace(source, old, new):
    """Replaces text that must occur exactly once."""
    equal(source.count(old), 1, f"the number of occurrences of {old!r} in the example")
    return source.replace(old, new)


def stores_named(service, name):
    """Returns the stores with the given name."""
    return [store for store in service.stores.kv_store_list().data if store.name == name]


@check("kv_store_create, unchanged, creates the store name_example", only=EXAMPLES)
def _(service):
    equal(stores_named(service, "name_example"), [], "the stores with this name before the example runs")
    printed = run("kv_store_create")
    created = stores_named(service, "name_example")
    equal(len(created), 1, "the number of stores with this name after the example ran")
    service.track(created[0])
    contains(printed, f"'id': '{created[0].id}'", "the output of the example")
    contains(printed, "'name': 'name_example'", "the output of the example")
    contains(printed, "'created_at': datetime.datetime(", "the output of the example")


@check("kv_store_create, run a second time, reports that the name exists", only=EXAMPLES)
def _(service):
    run("kv_store_create")
    printed = run("kv_store_create")
    created = stores_named(service, "name_example")
    service.track(created[0])
    equal(len(created), 1, "the number of stores with this name")
    contains(printed, "Exception when calling KvStoreApi->kv_store_create: (400)")
    contains(printed, "store with name 'name_example' already exists")


@check("kv_store_get, unchanged, reports that the store does not exist", only=EXAMPLES)
def _(_service):
    printed = run("kv_store_get")
    contains(printed, "Exception when calling KvStoreApi->kv_store_get: (404)")


@check("kv_store_get, with the id of a store, prints the store", only=EXAMPLES)
def _(service):
    store_id = service.store()
    printed = run("kv_store_get", store_id=store_id)
    contains(printed, f"'id': '{store_id}'", "the output of the example")
    contains(printed, "'updated_at': datetime.datetime(", "the output of the example")


@check("kv_store_list, unchanged, reports that cursor_example is not a valid cursor", only=EXAMPLES)
def _(_service):
    printed = run("kv_store_list")
    contains(printed, "Exception when calling KvStoreApi->kv_store_list: (400)")
    contains(printed, "cursor")


@check("kv_store_list, with a cursor, prints the stores that follow", only=EXAMPLES)
def _(service):
    first, second = sorted([service.name("Example"), service.name("Example")])
    for name in (first, second):
        service.create(name)
    cursor = None
    while True:  # until the page that ends with the first of the two stores
        options = {} if cursor is None else {"cursor": cursor}
        page = service.stores.kv_store_list(limit=1, **options)
        cursor = page.meta.next_cursor
        if page.data[0].name == first:
            break
    printed = run("kv_store_list", cursor=cursor)
    contains(printed, f"'name': '{second}'", "the output of the example")
    true(f"'name': '{first}'" not in printed, "the first store is listed again")
    contains(printed, "'limit': 1000", "the output of the example")


@check("kv_store_delete, unchanged, reports that the store does not exist", only=EXAMPLES)
def _(_service):
    printed = run("kv_store_delete")
    contains(printed, "Exception when calling KvStoreApi->kv_store_delete: (404)")


@check("kv_store_delete, with the id of a store, deletes the store and prints nothing", only=EXAMPLES)
def _(service):
    store_id = service.store()
    equal(run("kv_store_delete", store_id=store_id), "", "the output of the example")
    refused(404, NotFoundException, service.stores.kv_store_get, store_id)


@check(
    "kv_store_upsert_item, unchanged, fails in the client and stores nothing", only=EXAMPLES
)
def _(service):
    store_id = service.store()
    try:
        run("kv_store_upsert_item", store_id=store_id)
    except AttributeError:
        pass  # The first call in the example has no body, and this client cannot send such a request.
    else:
        raise Failed("the client sent a request without a body")
    equal(service.keys(store_id), [], "the keys")


@check("the second call of kv_store_upsert_item writes if the generation matches", only=EXAMPLES)
def _(service):
    store_id = service.store()
    service.put(store_id, "key_example", "before")
    generation = service.generation(store_id, "key_example")
    source = (FOLDER / "kv_store_upsert_item.py").read_text()
    contains(source, "kv_store_upsert_item(store_id, key)", "the example")
    namespace_changes = {"store_id": store_id, "time_to_live_sec": 60}
    printed = run_second_half(if_generation_match=generation, **namespace_changes)
    equal(printed, "", "the output of the example")
    value, headers = service.raw(store_id, "key_example")
    equal(value, b"YQ==", "the value")
    equal(headers["metadata"], "metadata_example", "the metadata")
    printed = run_second_half(**namespace_changes)
    contains(printed, "Exception when calling KvStoreItemApi->kv_store_upsert_item: (412)")


def run_second_half(**changes):
    """Runs the upsert example without its first call, which fails in every client version."""
    import fastly.api.kv_store_item_api as module

    original = module.KvStoreItemApi.kv_store_upsert_item

    def skip_without_body(self, store_id, key, **options):
        return original(self, store_id, key, **options) if "body" in options else None

    module.KvStoreItemApi.kv_store_upsert_item = skip_without_body
    try:
        return run("kv_store_upsert_item", **changes)
    finally:
        module.KvStoreItemApi.kv_store_upsert_item = original


@check("kv_store_get_item, with the id of a store, prints the value", only=EXAMPLES)
def _(service):
    store_id = service.store()
    service.put(store_id, "key_example", "a value")
    equal(run("kv_store_get_item", store_id=store_id), "'a value'\n", "the output of the example")


@check("kv_store_list_item_keys, with the id of a store and a cursor, prints both lists", only=EXAMPLES)
def _(service):
    store_id = service.store()
    wanted = ["prefix_example 1", "prefix_example 2", "prefix_example 3"]
    service.fill(store_id, ["another", *wanted])
    page = service.items.kv_store_list_item_keys(store_id, limit=2)
    cursor = page.meta.next_cursor
    printed = run("kv_store_list_item_keys", store_id=store_id, cursor=cursor)
    contains(printed, "'data': ['another'", "the first list")
    contains(printed, "{'data': ['prefix_example 2', 'prefix_example 3'],", "the second list")
    contains(printed, "'prefix': 'prefix_example'", "the second list")
    printed = run("kv_store_list_item_keys", store_id=store_id)
    contains(printed, "Exception when calling KvStoreItemApi->kv_store_list_item_keys: (400)")


@check(
    "kv_store_delete_item, with the id of a store, deletes the item and reports a 404 for the second call",
    only=EXAMPLES,
)
def _(service):
    store_id = service.store()
    service.put(store_id, "key_example", "a value")
    printed = run("kv_store_delete_item", store_id=store_id)
    contains(printed, "Exception when calling KvStoreItemApi->kv_store_delete_item: (404)")
    equal(printed.count("Exception when calling"), 1, "the number of failed calls")
    equal(service.keys(store_id), [], "the keys")
