#!/usr/bin/env python3
"""Measures proxies side by side: same upstream, same load, interleaved rounds.

    python3 driver.py --build                       # once, or after a change of the rig
    python3 driver.py --only direct,nginx,tidegate --rounds 3
    python3 driver.py --proxies more.toml --only direct,nginx,another

The main figure is the proxy's own CPU time per request (user and system, from
/proc, over its whole process tree): on a small noisy machine it moves far less
than throughput does. See README.md.
"""
import argparse, http.client, json, os, pathlib, shutil, signal, socket, statistics, struct, subprocess, sys, time, tomllib

HERE = pathlib.Path(__file__).resolve().parent
TICK = 1e6 / os.sysconf("SC_CLK_TCK")  # microseconds

# mock: what the upstream does; load: flags of the load generator. Duration and
# connections are bounded in each. "slow" replaces flags for proxies marked slow;
# "fresh" restarts the proxy first (if it starts within 5 s), so that its memory tells of this workload only.
WORKLOADS = {
    "w1": dict(title="json reply, 300 B body, c=64", per="request",
               mock="mode=json", load=dict(concurrency=64, seconds=5, body="small", body_bytes=300)),
    "w2": dict(title="stream of 200 events, no delay, c=32", per="request",
               mock="mode=sse&events=200&delta=24", load=dict(concurrency=32, seconds=5, sse=1, events=200, delta=24)),
    "w3": dict(title="2000 open streams, an event every 100 ms", per="event", fresh=True,
               mock="mode=sse&events=60&delta=24&gap_us=100000",
               load=dict(concurrency=2000, seconds=2.5, ramp_ms=2000, max_requests=2000, sse=1, events=60, delta=24, timeout_s=60),
               slow=dict(concurrency=200, max_requests=200)),
    "w4": dict(title="json reply, 100 KB body, c=32", per="request",
               mock="mode=json", load=dict(concurrency=32, seconds=4, body="chat", body_bytes=100_000)),
    "w5": dict(title="json reply, 5 MB body, c=4", per="request", fresh=True,
               mock="mode=json", load=dict(concurrency=4, seconds=4, body="image", body_bytes=5_000_000)),
    "w6": dict(title="json reply, 300 B body, c=1", per="request",
               mock="mode=json", load=dict(concurrency=1, seconds=3, body="small", body_bytes=300)),
    "w7": dict(title="json reply, new connection each, c=16", per="request",
               mock="mode=json", load=dict(concurrency=16, seconds=3, body="small", body_bytes=300, new_conn=1)),
}


def get(port, path, method="GET", timeout=5):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        c.request(method, path, body=b"" if method == "POST" else None)
        r = c.getresponse()
        return r.status, r.read()
    finally:
        c.close()


# --- /proc ------------------------------------------------------------------

def tree(root):
    """The process and its living descendants."""
    children = {}
    for p in filter(str.isdigit, os.listdir("/proc")):
        try:
            ppid = int(open(f"/proc/{p}/stat").read().rsplit(")", 1)[1].split()[1])
            children.setdefault(ppid, []).append(int(p))
        except (OSError, IndexError):
            pass
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return found


def cpu_us(root):
    """(user, system) of the tree, and of its children that have ended and been waited for."""
    user = system = 0.0
    for pid in tree(root):
        try:
            f = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
            user += (int(f[11]) + int(f[13])) * TICK
            system += (int(f[12]) + int(f[14])) * TICK
        except OSError:
            pass
    return user, system


def memory_kb(root, field):
    total = 0
    for pid in tree(root):
        try:
            for line in open(f"/proc/{pid}/status"):
                if line.startswith(field + ":"):
                    total += int(line.split()[1])
        except OSError:
            pass
    return total


def reset_peak(root):
    for pid in tree(root):
        try:
            open(f"/proc/{pid}/clear_refs", "w").write("5")
        except OSError:
            pass


def machine():
    f = [int(x) for x in open("/proc/stat").readline().split()[1:9]]
    return dict(total=sum(f), idle=f[3] + f[4], steal=f[7])


# --- processes --------------------------------------------------------------

class Proxy:
    def __init__(self, entry, args):
        self.e = dict(entry)
        self.name = entry["name"]
        self.args = args
        self.run = pathlib.Path(args.run) / self.name
        self.process = None
        self.names = dict(port=entry["port"], admin_port=entry["port"] + 500, upstream_port=args.upstream_port, workers=args.workers,
                          run=self.run, conf=self.run / entry.get("config", "none"),
                          bin=args.bin, tidegate=args.tidegate)

    def fill(self, text):
        for k, v in self.names.items():
            text = text.replace("{%s}" % k, str(v))
        return text

    @property
    def direct(self):
        return "cmd" not in self.e

    @property
    def slow(self):
        return self.e.get("slow", False)

    def available(self):
        if self.direct:
            return True
        return all(pathlib.Path(self.fill(c)).exists() for c in self.e["cmd"][:2] if "/" in c and not c.startswith("-")) \
            and shutil.which(self.fill(self.e["cmd"][0])) is not None

    def start(self):
        if self.direct:
            return
        self.run.mkdir(parents=True, exist_ok=True)
        env = dict(os.environ, **{k: self.fill(v) for k, v in self.e.get("env", {}).items()})
        folder = pathlib.Path(self.e.get("config_dir", HERE / "conf"))
        for name in ([self.e["config"]] if "config" in self.e else []) + self.e.get("more_config", []):
            (self.run / name).write_text(self.fill((folder / name).read_text()))
        if "before" in self.e:
            subprocess.run(self.fill(self.e["before"]), shell=True, check=True, cwd=self.run, env=env)
        pin = self.args.pin
        self.process = subprocess.Popen(
            [self.fill(c) for c in self.e["cmd"]], cwd=self.run, env=env, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=open(self.run / "log", "wb"), stderr=subprocess.STDOUT,
            preexec_fn=(lambda: os.sched_setaffinity(0, {1})) if pin else None)
        t0 = time.monotonic()
        deadline = t0 + (120 if self.slow else 20)
        while True:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {self.process.returncode}: see {self.run}/log")
            try:
                health = self.e.get("health", "/healthz")
                if health == "tcp":
                    socket.create_connection(("127.0.0.1", self.e["port"]), 1).close()
                    break
                if get(self.e["port"], health)[0] == 200:
                    break
            except OSError:
                pass
            if time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"{self.name} not ready: see {self.run}/log")
            time.sleep(0.02)
        self.ready_s = time.monotonic() - t0
        if "key_command" in self.e:
            self.e["key"] = subprocess.run(self.fill(self.e["key_command"]), shell=True, check=True, capture_output=True, text=True).stdout.strip()

    def stop(self):
        if self.process is None:
            return
        pids = tree(self.process.pid)
        for sig in (signal.SIGTERM, signal.SIGKILL):
            for pid in reversed(pids):
                try:
                    os.kill(pid, sig)
                except OSError:
                    pass
            try:
                self.process.wait(5)
                break
            except subprocess.TimeoutExpired:
                pass
        for pid in pids[1:]:  # children that outlived their parent
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        self.process = None
        time.sleep(0.3)


class Rig:
    def __init__(self, args):
        self.args = args
        # Held open for the run, this keeps idle cores polling; else a core halts, and waking it
        # costs tens of microseconds on a virtual machine, at times, billed to whoever wakes it.
        self.awake = None
        if not args.sleepy:
            try:
                self.awake = os.open("/dev/cpu_dma_latency", os.O_WRONLY)
                os.write(self.awake, struct.pack("i", 0))
            except OSError as e:
                print(f"cores may halt when idle ({e}): c=1 figures will be high and vary", file=sys.stderr)
        pin = (lambda: os.sched_setaffinity(0, {0})) if args.pin else None
        self.pin = pin
        self.mock = subprocess.Popen([f"{args.bin}/mock", "--port", str(args.upstream_port)], preexec_fn=pin)
        for _ in range(200):
            try:
                get(args.upstream_port, "/mock/stats")
                return
            except OSError:
                time.sleep(0.02)
        raise RuntimeError("mock not ready")

    def close(self):
        self.mock.terminate()
        self.mock.wait()
        if self.awake is not None:
            os.close(self.awake)

    def config(self, query):
        get(self.args.upstream_port, "/mock/config?" + query, "POST")

    def load(self, proxy, **flags):
        e = proxy.e
        url = f"http://127.0.0.1:{e['port']}{e.get('path', '/v1/responses')}"
        cmd = [f"{self.args.bin}/load", "--url", url, "--key", e.get("key", "sk-bench-client"), "--model", e.get("model", "bench-model")]
        for h in e.get("headers", []):
            cmd += ["--header", proxy.fill(h)]
        for k, v in flags.items():
            cmd += ["--" + k.replace("_", "-"), str(v)]
        p = subprocess.Popen(cmd, stdout=subprocess.PIPE, preexec_fn=self.pin)
        out = p.stdout.read()
        _, _, usage = os.wait4(p.pid, 0)
        p.returncode = 0
        return json.loads(out) | {"load_cpu_us": (usage.ru_utime + usage.ru_stime) * 1e6}

    def warm(self, proxy):
        self.config("mode=sse&events=20")
        self.load(proxy, concurrency=8, seconds=0.5, sse=1, events=20)
        self.config("mode=json")
        self.load(proxy, concurrency=8, seconds=2 if proxy.slow else 0.5)

    def probe(self, proxy):
        """What the proxy does to a request: key, model, path, extra fields; and a wrong key."""
        self.config("mode=json&capture=1")
        e = proxy.e
        chat = "chat/completions" in e.get("path", "")
        rest = '"metadata": { "model" :"inner"} ,"temperature":1.10,"x_unknown":[1e2]'
        body = '{"%s":[{"role":"user","content":"hi"}],"model":"%s",%s}' % ("messages" if chat else "input", e.get("model", "bench-model"), rest)

        def post(key):
            c = http.client.HTTPConnection("127.0.0.1", e["port"], timeout=30)
            headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
            headers |= dict(proxy.fill(h).split(": ", 1) for h in e.get("headers", []))
            c.request("POST", e.get("path", "/v1/responses"), body, headers)
            r = c.getresponse()
            r.read()
            c.close()
            return r.status

        out = {"status": post(e.get("key", "sk-bench-client"))}
        raw = get(self.args.upstream_port, "/mock/last")[1].decode("utf-8", "replace")
        head, _, sent = raw.partition("\r\n\r\n")
        out["path"] = head.split(" ", 2)[1] if " " in head else ""
        out["auth"] = next((l.split(": ", 1)[1] for l in head.splitlines() if l.lower().startswith("authorization:")), "")
        try:
            j = json.loads(sent)
            out |= {"model": j.get("model"), "inner": (j.get("metadata") or {}).get("model"), "unknown_kept": "x_unknown" in j,
                    "rest_verbatim": rest in sent}
        except ValueError:
            out["model"] = None
        out["wrong_key"] = post("sk-wrong")
        self.config("mode=json")
        return out

    def measure(self, proxy, name):
        w = WORKLOADS[name]
        flags = dict(w["load"])
        if proxy.slow or self.args.small_w3:
            flags |= w.get("slow", {})
        flags["seconds"] *= self.args.scale if name != "w3" else 1
        self.config(w["mock"])
        if name != "w3":  # a short run first, so that pools and code are warm
            self.load(proxy, **(flags | dict(seconds=0.5)))
        pid = proxy.process.pid if proxy.process else None
        time.sleep(0.2)
        idle = memory_kb(pid, "VmRSS") if pid else 0
        if pid:
            reset_peak(pid)
        m0, k0, c0 = machine(), cpu_us(self.mock.pid), cpu_us(pid) if pid else (0, 0)
        r = self.load(proxy, **flags)
        m1, k1, c1 = machine(), cpu_us(self.mock.pid), cpu_us(pid) if pid else (0, 0)
        n = r["events"] if w["per"] == "event" else r["requests"]
        user, system = c1[0] - c0[0], c1[1] - c0[1]
        peak = memory_kb(pid, "VmHWM") if pid else 0
        total = max(1, m1["total"] - m0["total"])
        return r | {
            "cpu_us": (user + system) / n if n else None,
            "cpu_user_us": user / n if n else None,
            "cpu_sys_us": system / n if n else None,
            "cores": (user + system) / 1e6 / r["wall_s"],
            "mock_us": (sum(k1) - sum(k0)) / n if n else None,
            "load_us": r["load_cpu_us"] / n if n else None,
            "idle_rss_kb": idle, "peak_rss_kb": peak,
            "kb_per_stream": (peak - idle) / r["peak_open"] if name == "w3" and r["peak_open"] else None,
            "steal_pct": 100 * (m1["steal"] - m0["steal"]) / total,
            # busy cores that are neither the proxy's, the mock's nor the load's: other work on the machine
            "other_cores": max(0.0, (total - (m1["idle"] - m0["idle"])) * TICK - user - system - sum(k1) + sum(k0) - r["load_cpu_us"]) / 1e6 / r["wall_s"],
        }


# --- report -----------------------------------------------------------------

def median(rows, *path):
    values = []
    for r in rows:
        for p in path:
            r = r.get(p) if r else None
        if r is not None:
            values.append(r)
    return statistics.median(values) if values else None


def report(results, probes, order, base):
    def ratio(name, w, *path):
        a, b = median(results.get((name, w), []), *path), median(results.get((base, w), []), *path)
        return f"{a / b:.2f}x" if a and b else "-"

    def num(x, digits=1):
        return "-" if x is None else f"{x:,.{digits}f}"

    out = []
    for w, spec in WORKLOADS.items():
        names = [n for n in order if (n, w) in results]
        if not names:
            continue
        out += [f"\n### {w}: {spec['title']}\n"]
        stream = "sse" in spec["load"]
        head = ["proxy", "n", f"CPU us/{spec['per']}", "min-max", f"vs {base}", "user", "sys"]
        head += ["events/s", "ttfb p50 ms", "lag p50 us", "lag p99 us"] if stream else ["req/s", f"vs {base}", "p50 us", "added p50", "p99 us", "added p99"]
        head += ["cores", "peak RSS MB"] + (["KB/stream"] if w == "w3" else []) + ["other cores", "errors", "altered"]
        out += ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
        for n in names:
            rows = [r for r in results[(n, w)] if r["requests"]]
            if not rows:
                out += [f"| {n} | 0 | {results[(n, w)][0]['first_error']} |" + " - |" * (len(head) - 3)]
                continue
            cpus = [r["cpu_us"] for r in rows if r["cpu_us"] is not None]
            cell = [n, str(len(rows)), num(median(rows, "cpu_us")), f"{min(cpus):.1f}-{max(cpus):.1f}" if cpus else "-", ratio(n, w, "cpu_us"),
                    num(median(rows, "cpu_user_us")), num(median(rows, "cpu_sys_us"))]
            if stream:
                rate = statistics.median(r["events"] / r["wall_s"] for r in rows)
                cell += [num(rate, 0), num((median(rows, "ttfb_us", "p50") or 0) / 1000, 2), num(median(rows, "lag_us", "p50"), 0), num(median(rows, "lag_us", "p99"), 0)]
            else:
                cell += [num(median(rows, "rps"), 0), ratio(n, w, "rps")]
                for p in ("p50", "p99"):
                    a, b = median(rows, "latency_us", p), median(results.get(("direct", w), []), "latency_us", p)
                    cell += [num(a, 0), num(a - b, 0) if b else "-"]
            cell += [num(median(rows, "cores"), 2), num(median(rows, "peak_rss_kb") / 1024)]
            if w == "w3":
                cell += [num(median(rows, "kb_per_stream"))]
            sent = sum(r["requests"] for r in rows)
            cell += [num(median(rows, "other_cores"), 2), str(sum(r["errors"] for r in results[(n, w)])), f"{100 * sum(r['altered'] for r in rows) / sent:.0f}%" if sent else "-"]
            out += ["| " + " | ".join(cell) + " |"]
    out += ["\n### What each does to the request\n", "| proxy | status | upstream path | key swapped | model upstream | inner model kept | unknown field kept | rest verbatim | wrong key |", "|" + " --- |" * 9]
    for n in order:
        if n in probes:
            p = probes[n]
            out += [f"| {n} | {p.get('status')} | {p.get('path')} | {'yes' if 'upstream' in p.get('auth', '') else 'no'} | {p.get('model')} | {p.get('inner') == 'inner'} | {p.get('unknown_kept')} | {p.get('rest_verbatim')} | {p.get('wrong_key')} |"]
    return "\n".join(out)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--build", action="store_true", help="build the rig and Tidegate (profile dist) first")
    a.add_argument("--proxies", action="append", default=[], help="further file like proxies.toml (repeatable)")
    a.add_argument("--only", help="names, comma-separated (default: all that are there)")
    a.add_argument("--workloads", default=",".join(WORKLOADS))
    a.add_argument("--rounds", type=int, default=3)
    a.add_argument("--scale", type=float, default=1.0, help="factor on each workload's duration")
    a.add_argument("--small-w3", action="store_true", help="200 instead of 2000 streams for all, to compare with slow proxies")
    a.add_argument("--workers", type=int, default=os.cpu_count())
    a.add_argument("--pin", action="store_true", help="proxy on cpu 1, mock and load on cpu 0: throughput of one core")
    a.add_argument("--sleepy", action="store_true", help="let idle cores halt, as they do by default: wake-ups then cost more, and vary")
    a.add_argument("--base", default="nginx", help="what the ratios are against")
    a.add_argument("--upstream-port", type=int, default=24000)
    a.add_argument("--target", default=os.environ.get("CARGO_TARGET_DIR", "/tmp/bench-target"))
    a.add_argument("--tidegate", help="the binary to measure (default: the one that --build makes)")
    a.add_argument("--run", default="/tmp/bench-run")
    a.add_argument("--out", default="/tmp/bench-run/results.json")
    args = a.parse_args()
    args.bin = f"{args.target}/release"
    args.tidegate = args.tidegate or f"{args.target}/dist/tidegate"
    if args.build:
        env = dict(os.environ, CARGO_TARGET_DIR=args.target)
        subprocess.run(["cargo", "build", "--release"], cwd=HERE / "rig", check=True, env=env)
        subprocess.run(["cargo", "build", "--locked", "--profile", "dist"], cwd=HERE.parent, check=True, env=env)
    entries = []
    for file in [HERE / "proxies.toml", *map(pathlib.Path, args.proxies)]:
        for e in tomllib.loads(file.read_text())["proxy"]:
            if file.parent != HERE and "config" in e:
                e["config_dir"] = str(file.resolve().parent)
            entries.append(e)
    if args.only:
        wanted = args.only.split(",")
        missing = set(wanted) - {e["name"] for e in entries}
        if missing:
            sys.exit(f"no such proxy: {', '.join(missing)}")
        entries = [e for e in entries if e["name"] in wanted]
    proxies = []
    for e in entries:
        p = Proxy(e, args)
        if p.available():
            proxies.append(p)
        else:
            print(f"left out (not installed): {p.name}", file=sys.stderr)
    workloads = args.workloads.split(",")
    pathlib.Path(args.run).mkdir(parents=True, exist_ok=True)
    for sig in (signal.SIGTERM, signal.SIGINT):  # so that a stop cleans up
        signal.signal(sig, lambda *_: sys.exit(1))
    results, probes, starts = {}, {}, {}
    rig = Rig(args)
    begun = time.time()
    try:
        for n in range(args.rounds):
            for p in proxies if n % 2 == 0 else proxies[::-1]:
                try:
                    p.start()
                    if p.process:
                        starts.setdefault(p.name, []).append(dict(ready_s=p.ready_s, rss_kb=memory_kb(p.process.pid, "VmRSS")))
                    if p.name not in probes:
                        probes[p.name] = rig.probe(p)
                    rig.warm(p)
                    for i, w in enumerate(workloads):
                        if WORKLOADS[w].get("fresh") and i and p.process and p.ready_s < 5:
                            p.stop()
                            p.start()
                            rig.warm(p)
                        r = rig.measure(p, w)
                        results.setdefault((p.name, w), []).append(r)
                        cpu = "-" if r["cpu_us"] is None else f"{r['cpu_us']:.1f}"
                        print(f"[{time.time() - begun:5.0f}s] round {n + 1} {p.name:20} {w} cpu {cpu:>9} us/{WORKLOADS[w]['per']:7} rps {r['rps']:>9.1f} p50 {r['latency_us']['p50']:>10.1f} us  errors {r['errors']} {r['first_error']} steal {r['steal_pct']:.1f}% other {r['other_cores']:.2f} cores", file=sys.stderr, flush=True)
                except Exception as e:  # one proxy that fails must not end the run
                    print(f"{p.name}: {type(e).__name__}: {e}", file=sys.stderr)
                finally:
                    p.stop()
                pathlib.Path(args.out).write_text(json.dumps({
                    "workers": args.workers, "pin": args.pin, "scale": args.scale, "rounds_done": n + 1, "starts": starts, "probes": probes,
                    "results": [{"proxy": k[0], "workload": k[1], "rounds": v} for k, v in results.items()]}, indent=1))
    finally:
        for p in proxies:
            p.stop()
        rig.close()
    print(report(results, probes, [p.name for p in proxies], args.base))
    print("\n### Start\n\n| proxy | ready s | RSS MB |\n| --- | --- | --- |")
    for n, s in starts.items():
        print(f"| {n} | {median(s, 'ready_s'):.2f} | {median(s, 'rss_kb') / 1024:.1f} |")


if __name__ == "__main__":
    main()
