"""The real Codex, configured so that it touches nothing of the machine's own Codex and sends nothing beyond the machine."""

import base64
import json
import os
import re
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from relay import Relay

HERE = Path(__file__).resolve().parent
CODEX = next(HERE.glob("node_modules/@openai/codex-linux-*/vendor/*/bin/codex"))
GATEWAY = os.environ["GATEWAY_URL"]
SIMULATOR = os.environ["SIMULATOR_URL"]
KEY = os.environ["TIDEGATE_KEY"]
OTHER_KEY = os.environ["TIDEGATE_OTHER_KEY"]


def offered():
    """The models that this Codex offers by itself: its catalogue is a JSON text in the binary."""
    slugs = re.findall(rb'"slug": *"([a-z0-9.-]+)"', CODEX.read_bytes())
    return sorted({slug.decode() for slug in slugs})


@dataclass
class Run:
    """One run of `codex exec`: its output and its exit code."""

    code: int
    events: list
    stderr: str
    seconds: float

    @property
    def thread(self):
        return self.events[0]["thread_id"]

    def of(self, kind):
        return [event for event in self.events if event["type"] == kind]

    def items(self, kind):
        items = [event["item"] for event in self.of("item.completed")]
        return [item for item in items if item["type"] == kind]

    @property
    def text(self):
        return self.items("agent_message")[-1]["text"]

    @property
    def errors(self):
        """The errors that a person sees. A warning that Codex does not know the names of Tidegate's models is no error."""
        items = [item["message"] for item in self.items("error") if "Model metadata" not in item["message"]]
        return [event["message"] for event in self.of("error")] + items

    def upstream(self):
        """The requests that reached the providers in this thread."""
        with urllib.request.urlopen(f"{SIMULATOR}/simulator/received") as answer:
            entries = json.load(answer)["data"]
        return [entry for entry in entries if entry["headers"].get("thread-id") == self.thread]


class Codex:
    def __init__(self, folder, relay):
        self.folder, self.relay = folder, relay
        self.home, self.work = folder / "home", folder / "work"
        for made in (self.home, self.work):
            made.mkdir()

    def log_in(self):
        """A login as with a ChatGPT account; its access token is the gateway's key. Codex checks no signature offline."""
        part = lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
        plan = {"chatgpt_plan_type": "pro", "chatgpt_user_id": "user-1", "chatgpt_account_id": "account-1"}
        claims = {"email": "a@example.com", "exp": int(time.time()) + 864000, "https://api.openai.com/auth": plan}
        token = ".".join([part({"alg": "none", "typ": "JWT"}), part(claims), "c2ln"])
        tokens = {"id_token": token, "access_token": KEY, "refresh_token": "none", "account_id": "account-1"}
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        login = {"auth_mode": "chatgpt", "OPENAI_API_KEY": None, "tokens": tokens, "last_refresh": now}
        (self.home / "auth.json").write_text(json.dumps(login))

    def run(self, prompt, *more, model="dmxapi/gpt-5-mini", key=KEY, name="gateway", provider="", built_in=False, timeout=90):
        base = f"{self.relay.url}/v1"
        if built_in:
            where = ["-c", f'openai_base_url="{base}"']
        else:
            auth = provider or 'env_key="GATEWAY_KEY"'
            table = f'{{name="{name}",base_url="{base}",{auth}}}'
            where = ["-c", "model_provider=gateway", "-c", f"model_providers.gateway={table}"]
        quiet = ["analytics.enabled=false", "check_for_update_on_startup=false", f'chatgpt_base_url="{base}/none/"']
        settings = [word for setting in quiet for word in ("-c", setting)]
        command = [CODEX, "exec", "--json", "--skip-git-repo-check", "-m", model, *where, *settings, *more, prompt]
        # Every other connection of Codex goes to a port without a listener.
        nowhere = {f"{scheme}_proxy": "http://127.0.0.1:9" for scheme in ("http", "https", "all")}
        nowhere |= {name.upper(): value for name, value in nowhere.items()} | {"no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
        env = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "CODEX_HOME": str(self.home), **nowhere}
        env["CODEX_API_KEY" if built_in else "GATEWAY_KEY"] = key
        begin = time.monotonic()
        done = subprocess.run(
            command, cwd=self.work, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
        )
        events = [json.loads(line) for line in done.stdout.splitlines()]
        return Run(done.returncode, events, done.stderr, time.monotonic() - begin)

    def resume(self, run, prompt, *more, **options):
        return self.run(prompt, *more, "resume", run.thread, **options)


@pytest.fixture
def relay():
    url = urlsplit(GATEWAY)
    relay = Relay(url.hostname, url.port)
    yield relay
    relay.close()


@pytest.fixture
def codex(tmp_path, relay):
    return Codex(tmp_path, relay)
