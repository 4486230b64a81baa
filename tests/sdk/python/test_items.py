"""Histories of every item type that this openai-python knows, and of unknown types: a provider gets them unchanged."""

import json
import types
import typing
import urllib.request

import pytest
from conftest import GATEWAY, KEY
from openai.types.responses import response_input_item_param
from typing_extensions import NotRequired, Required, is_typeddict

ITEMS = typing.get_args(response_input_item_param.ResponseInputItemParam)


def value(kind, full):
    """Any value of an annotation. With `full`, every optional field is set; otherwise only the required ones."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Required, NotRequired, typing.Annotated):
        return value(args[0], full)
    if origin is typing.Literal:
        return args[0]
    if origin in (typing.Union, types.UnionType):
        # None where the annotation allows it: replayed items often hold null.
        return None if not full and type(None) in args else value(args[0], full)
    if is_typeddict(kind):
        return fields(kind, full)
    if origin in (dict, typing.Dict) or kind is dict:
        return {}
    if origin is not None:
        return [value(args[0], full)] if full else []
    return {str: "x", int: 1, float: 1.0, bool: True, object: "x"}[kind]


def fields(kind, full):
    hints = typing.get_type_hints(kind, include_extras=True)
    # Names of files are references, which a gateway with several keys has to know.
    wanted = {name: of for name, of in hints.items() if name != "file_id"}
    return {name: value(of, full) for name, of in wanted.items() if full or typing.get_origin(of) is Required}


def histories():
    """Each type twice, with an id that the client made, as Codex does."""
    for kind in ITEMS:
        for full in (False, True):
            item = fields(kind, full)
            if item.get("type") == "item_reference":
                continue
            item["id"] = f"{item.get('type', 'msg')}_018f3b5e-7d8a-7c6e-b0f1-2a3b4c5d6e7f"
            yield pytest.param(item, id=f"{kind.__name__}-{'full' if full else 'required'}")
    for name in ("hologram", "tool_search_call_2027"):
        yield pytest.param({"type": name, "id": "x_1", "payload": {"Container": "wav", "file_id": ["x"]}}, id=name)


def is_empty(item):
    """Whether the item holds only an id, so that a provider has to look it up. Its `status` says that a call ran, but pictures are looked up."""
    kind = item.get("type", "")
    is_record = kind.endswith("_call") and kind != "image_generation_call"
    labels = {"id", "type", "role"} | (set() if is_record else {"status"})
    return all(name in labels or found in (None, "", [], {}) for name, found in item.items())


@pytest.mark.parametrize("item", list(histories()))
def test_an_item_with_content_goes_up_as_it_is(item):
    body = {"model": "pair/gpt-4.1", "store": False, "input": [item, {"role": "user", "content": "Hello"}]}
    text = json.dumps(body).encode()
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    request = urllib.request.Request(f"{GATEWAY}/v1/responses", text, headers)
    try:
        with urllib.request.urlopen(request) as answer:
            assert answer.status == 200
    except urllib.error.HTTPError as refused:
        error = json.load(refused)["error"]
        # The simulated provider checks items as well, and its errors are its own.
        ours = error["code"] in ("unknown_id", "conflicting_state", "repeated_field", "invalid_json", "state_unavailable")
        assert is_empty(item) or not ours, error


def test_the_types_are_there():
    kinds = {fields(kind, False).get("type") for kind in ITEMS}
    assert {"reasoning", "web_search_call", "image_generation_call", "mcp_call", "compaction"} <= kinds
    assert len(ITEMS) > 20
