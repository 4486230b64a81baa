"""The checks, and the table of figures."""


class Report:
    def __init__(self):
        self.checks, self.failed, self.rows = 0, [], []

    def check(self, what, good, why=""):
        self.checks += 1
        print("ok    " if good else "FAILED", what + (f": {why}" if why else ""), flush=True)
        if not good:
            self.failed.append(what)

    def row(self, part, **figures):
        """Adds one line of the table."""
        self.rows.append((part, "  ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items())))

    def end(self):
        wide = max((len(part) for part, _ in self.rows), default=0)
        print()
        for part, figures in self.rows:
            print(f"{part:{wide}}  {figures}")
        print(f"\noperate: {self.checks} checks, {len(self.failed)} failed" + "".join(f"\n  {what}" for what in self.failed))
        return bool(self.failed)


def times(healthy):
    """p50 and p99 of a healthy client in milliseconds."""
    return f"{healthy['p50']:.1f}/{healthy['p99']:.1f}"


def mib(kib):
    return f"{kib / 1024:.1f}"
