"""Hooks for schemathesis: they generate NDJSON bodies, adapt requests and record responses.

Without these hooks, nearly every generated request would name a store that does not exist. The hooks
change valid requests to use an existing store: OPENAPI_READ, whose keys are always KEYS, or
OPENAPI_WRITE. They also make the requests satisfy rules that a schema cannot express. For each
response, they append a line with the operation and the status to the file OPENAPI_TALLY.
"""

import base64
import itertools
import json
import os

import schemathesis
from hypothesis import strategies as st
from schemathesis import GenerationMode

READ = os.environ["OPENAPI_READ"]
WRITE = os.environ["OPENAPI_WRITE"]
KEYS = ["a", "b/c", "d e"]
# The cursor of a list that ends with the key "a".
CURSOR = base64.b64encode(b"\x0a\x01a").decode()

_tally = open(os.environ["OPENAPI_TALLY"], "a", encoding="utf-8", buffering=1)
_counter = itertools.count()

_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_value = st.binary(max_size=40).map(lambda value: base64.b64encode(value).decode())
_line = st.fixed_dictionaries(
    {"key": st.one_of(st.sampled_from(KEYS), _text), "value": st.one_of(_value, _text)},
    optional={
        "time_to_live_sec": st.one_of(st.none(), st.integers(-1, 2**32)),
        "metadata": st.one_of(st.none(), _text),
        "metadata_base64": _value,
        "background_fetch": st.one_of(st.none(), st.booleans()),
        "generation": st.one_of(st.none(), st.integers(0, 2**64)),
        "expires": st.one_of(st.none(), _text, st.datetimes().map(lambda at: f"{at.isoformat()}Z")),
        "modified": st.one_of(st.none(), st.datetimes().map(lambda at: f"{at.isoformat()}Z")),
    },
)
_lines = st.lists(_line, max_size=8).map(
    lambda lines: "".join(json.dumps(line) + "\n" for line in lines)
)
schemathesis.openapi.media_type("application/x-ndjson", _lines)


@schemathesis.serializer("application/x-ndjson")
def ndjson(_context, value):
    """Sends text bodies unchanged."""
    if isinstance(value, bytes):
        return value
    text = value if isinstance(value, str) else json.dumps(value)
    return text.encode("utf-8", "surrogatepass")


def operation_id(case):
    """Returns the id of the operation in the API description."""
    return case.operation.definition.raw["operationId"]


def use_existing_resources(case):
    """Changes a request to name an existing store and, in half of the cases, an existing key."""
    name, path = operation_id(case), case.path_parameters
    # Only requests that follow links delete a store.
    if "store_id" in path and name != "deleteStore":
        path["store_id"] = READ if case.operation.method.upper() == "GET" else WRITE
    turn = next(_counter)
    if "key" in path and turn % 2:
        path["key"] = KEYS[turn // 2 % len(KEYS)]


def satisfy_rules(case):
    """Changes a request to satisfy rules that a schema cannot express."""
    name, query = operation_id(case), case.query
    if query and query.get("cursor"):
        query["cursor"] = CURSOR
    if name == "putItem":
        modes = [mode for mode in ("add", "append", "prepend") if query.get(mode)]
        for mode in modes[1:]:
            query[mode] = False
    elif name == "deleteItems":
        query["all"] = not query.get("prefix")
    elif name in ("createStore", "renameStore"):
        # The name must be unique.
        case.body["name"] = case.body["name"][:240] + f" {next(_counter)}"
    elif name == "createToken":
        # The stores must exist, and the expiry must be in the future.
        if case.body.get("stores"):
            case.body["stores"] = [READ]
        if case.body.get("expires_at"):
            case.body["expires_at"] = "2999-" + case.body["expires_at"].split("-", 1)[1]


@schemathesis.hook
def before_call(context, case, kwargs):
    """Adapts valid requests. Requests that are intentionally invalid are sent unchanged."""
    if case.meta is None or case.meta.generation.mode != GenerationMode.POSITIVE:
        return
    # Values from an earlier response are not changed.
    if case.meta.phase.name.value != "stateful":
        use_existing_resources(case)
    satisfy_rules(case)


@schemathesis.hook
def after_call(context, case, response):
    """Records the status of the response."""
    if response.request.method == case.operation.method.upper():
        _tally.write(f"{operation_id(case)} {response.status_code}\n")
