"""The requests and their answers: the upstream answers by this script, and the clients compare the bytes with it."""

import json

KEY = "tg-0123456789abcdef0123456789abcdef"
EVENTS = 10


def request(kind, number=0, milliseconds=0, more=""):
    """A whole request. `input` tells the upstream what to do."""
    body = json.dumps({"model": "m", "input": f"{kind} {number} {milliseconds}"}).encode()
    head = f"POST /v1/responses HTTP/1.1\r\nhost: operate\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\n"
    return f"{head}{more}content-length: {len(body)}\r\n\r\n".encode() + body


def short(number):
    """The body of an answer that is not a stream."""
    text = f"answer {number}, ".encode() * 20
    return b'{"id":"resp_%d","object":"response","status":"completed","output":[],"text":"%s"}' % (number, text)


def events(number):
    """The pieces of a stream. The last piece ends it."""
    for event in range(EVENTS - 1):
        yield b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"%d of %d "}\n\n' % (event, number)
    yield b'event: response.completed\ndata: {"type":"response.completed","response":{"id":"resp_%d"}}\n\n' % number


def expected(kind, number):
    return short(number) if kind == "short" else b"".join(events(number))
