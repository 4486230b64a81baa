"""The processes that `run` started, and clients for them."""

import json
import os
import time
from pathlib import Path

import openai
import pytest

GATEWAY = os.environ["GATEWAY_URL"]
ADMIN = os.environ["ADMIN_URL"]
KEY = os.environ["TIDEGATE_KEY"]

# One model of each personality of the simulator, addressed directly, so that the test decides which one answers.
MODELS = ["dmxapi/gpt-5-mini", "dmxapi/gpt-5.2-pro", "modelverse/gpt-4o", "acedata/gpt-4.1"]


def simulate(words):
    """Arguments of `create` that ask the simulator for this behaviour (docs/simulator.md)."""
    return {"input": "Hello", "metadata": {"simulate": words}}


def settings(**more):
    # No retry: each test sees the first answer.
    return {"base_url": f"{GATEWAY}/v1", "api_key": KEY, "max_retries": 0, "timeout": 20, **more}


@pytest.fixture
def client():
    with openai.OpenAI(**settings()) as client:
        yield client


@pytest.fixture(params=MODELS)
def model(request):
    return request.param


def outcome(request_id, within=2.0):
    """The gateway's log line about a request, which it writes at the end of the request."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        for line in Path(os.environ["GATEWAY_LOG"]).read_text().splitlines():
            if request_id in line and (entry := json.loads(line)).get("id") == request_id:
                return entry
        time.sleep(0.01)
    raise AssertionError(f"no log line about {request_id} within {within} s")
