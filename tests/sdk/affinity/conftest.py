"""The gateway over the pool, for all tests of a file."""

import asyncio
import inspect
import os
import signal
from pathlib import Path

import pytest
from gateway import Gateway

LOOP = asyncio.new_event_loop()


@pytest.fixture(scope="module")
def gateway(request):
    gateway = Gateway(Path(os.environ["WORK"]) / request.module.__name__)
    yield gateway
    assert LOOP.run_until_complete(gateway.end(signal.SIGTERM)) == 0


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """All tests run in one event loop, because they share the clients of a gateway."""
    test = pyfuncitem.obj
    if not inspect.iscoroutinefunction(test):
        return None
    LOOP.run_until_complete(test(**{name: pyfuncitem.funcargs[name] for name in inspect.signature(test).parameters}))
    return True
