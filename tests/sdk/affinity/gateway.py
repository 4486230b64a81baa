"""The gateway over the pool: it can be stopped and started again with the same data, as in a restart or a crash."""

import json
import os
import re
import secrets
import subprocess
import time
import urllib.request
from pathlib import Path

import openai

HERE = Path(__file__).resolve().parent
SIMULATOR = os.environ["SIMULATOR_URL"]

# Every account, by the marks in its answers.
PLACES = [(title, name) for title in ("DMXAPI", "ModelVerse", "Ace Data Cloud") for name in ("north", "south")]


def where(answer):
    """The provider and the account of an answer."""
    return re.match(r"Hello from the simulated (.+), account (\w+)\.", answer.output_text).groups()


class Gateway:
    def __init__(self, folder):
        self.folder, self.log = folder, folder / "gateway.log"
        folder.mkdir()
        self.config = folder / "tidegate.toml"
        self.config.write_text((HERE / "pool.toml").read_text().replace("http://SIMULATOR", SIMULATOR))
        self.keys = {name: f"tg-{secrets.token_hex(16)}" for name in ("anna", "ben", "carl", "dora", "emil")}
        self.env = {**os.environ, "TIDEGATE_DATA_DIR": str(folder / "data")}
        self.env |= {name.upper(): key for name, key in self.keys.items()}
        # The simulator knows an account by the part before the dot.
        accounts = {"NORTH": "north", "SOUTH": "south", "SOUTH_2": "south"}
        self.env |= {name: f"{account}.{secrets.token_hex(16)}" for name, account in accounts.items()}
        self.clients = {}
        self.start()

    def start(self):
        before = len(self.lines())
        with self.log.open("ab") as log:
            command = [os.environ["BINARY"], "serve", "--config", self.config]
            self.process = subprocess.Popen(command, env=self.env, stdout=log, stderr=log)
        end = time.monotonic() + 10
        while not (ready := [line for line in self.lines()[before:] if '"listen":"' in line]):
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)
        said = json.loads(ready[0])
        self.url, self.admin = f"http://{said['listen']}", f"http://{said['admin_listen']}"

    async def end(self, signal):
        """Ends the gateway by this signal. Returns its exit code, or the signal's negative number."""
        # If the garbage collector closed these sockets under asyncio, asyncio would mix up later sockets.
        for client in self.clients.values():
            await client.close()
        self.clients.clear()
        self.process.send_signal(signal)
        return self.process.wait(20)

    def written(self):
        """Waits until the recorded ids are in the data folder, which takes 50 ms if the machine is not busy."""
        end = time.monotonic() + 1
        while self.metric("tidegate_affinity_waiting") != 0:
            assert time.monotonic() < end, "a second was not enough"
            time.sleep(0.01)

    def metric(self, name):
        with urllib.request.urlopen(f"{self.admin}/metrics") as answer:
            return float(re.search(rf"^{name} (\S+)$", answer.read().decode(), re.MULTILINE)[1])

    def lines(self):
        return self.log.read_text().splitlines() if self.log.exists() else []

    def requests(self):
        """The log lines of requests that went up."""
        return [entry for line in self.lines() if '"attempts":"' in line and (entry := json.loads(line))["attempts"]]

    def by(self, name):
        """The client of one of the people in pool.toml. It makes no retry: each test sees the first answer."""
        if name not in self.clients:
            self.clients[name] = openai.AsyncOpenAI(
                base_url=f"{self.url}/v1", api_key=self.keys[name], max_retries=0, timeout=20
            )
        return self.clients[name]

    async def say(self, name, stream=False, **arguments):
        """An answer of the pool, streamed or not, as a whole."""
        arguments = {"model": "pool", "input": "Hello", **arguments}
        if not stream:
            return await self.by(name).responses.create(**arguments)
        # The simulator must not slow the test down.
        more = {"stream": True, "metadata": {"simulate": "delay=0"}}
        async with await self.by(name).responses.create(**arguments, **more) as events:
            (end,) = [event.response async for event in events if event.type == "response.completed"]
        return end

    async def begin(self, nth, name, **arguments):
        """Repeats a first turn until it is at the nth account, so that each account has its share. Returns the account and the answer."""
        place = PLACES[nth % len(PLACES)]
        end = time.monotonic() + 20
        while time.monotonic() < end:
            answer = await self.say(name, **arguments)
            if where(answer) == place:
                return place, answer
        raise AssertionError(f"the pool never asked {place}")
