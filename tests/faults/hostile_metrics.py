"""Metrics files for `histo eval --compare` and their tables of scores: a seeded stream of variants."""

import json

VALUES = [
    *(None, True, -1, 0, 1.5, 1e308, 10**400, "", "..", "/etc/passwd", "x" * 50_000, "\ud800", "a\0b", "\x1b[31m", []),
    *({}, [[]], [None], {"": None}, float("nan"), float("-inf"), "NaN", [1, 2, 3], {"auc": "high"}, {"k" * 20_000: 1}),
]
CELLS = ["", "nan", "inf", "-1", "2", "1e400", "99999999999999999999", "x", '"', "\0", "=1+1", "0.5", "é", "\r"]


def places(value, at=()):
    """Every path of keys in a JSON value."""
    yield at
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*at, key))


def change(value, at, new):
    if not at:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[at[0]] = change(value[at[0]], at[1:], new)
    return copy


def remove(value, at):
    """Return a copy of a JSON value without what is at the path of keys."""
    *before, last = at
    parent = value
    for key in before:
        parent = parent[key]
    rest = {key: item for key, item in parent.items() if key != last} if isinstance(parent, dict) else parent[:-1]
    return change(value, before, rest)


def write(rng, report, table, path):
    """Write a variant of the report to `path`, and of its table to the same folder; return what was changed."""
    text, rows = json.dumps(report), table
    kind = rng.choice(["value", "value", "value", "missing", "scores", "text", "deep", "cells", "cells", "header"])
    if kind == "value":
        value = report
        for _ in range(rng.randint(1, 3)):
            value = change(value, rng.choice(list(places(value))[:400]), rng.choice(VALUES))
        text = json.dumps(value)
    elif kind == "missing":
        text = json.dumps(remove(report, rng.choice(list(places(report))[1:400])))
    elif kind == "scores":
        text = json.dumps(
            {**report, "scores": rng.choice(["pipe", "..", ".", "a/b", "/dev/zero", "no.csv", path.name])}
        )
    elif kind == "text":
        data = list(text)
        for _ in range(rng.randint(1, 5)):
            data[rng.randrange(len(data))] = rng.choice('{}[]",:0e9\\\n\x00')
        text = "".join(data)
    elif kind == "deep":
        text = rng.choice(["[" * 200_000, '{"a":' * 50_000, "1" * 5000, '{"run":' + "9" * 5000 + "}", "", "\ufeff{}"])
    elif kind == "cells":
        lines = [line.split(",") for line in table.splitlines()]
        for _ in range(rng.randint(1, 4)):
            line = rng.choice(lines[1:])
            line[rng.randrange(len(line))] = rng.choice(CELLS)
        rows = "\n".join(map(",".join, lines))
    else:
        head, _, rest = table.partition("\n")
        names = head.split(",")
        names[rng.randrange(len(names))] = rng.choice(["", "id", "label", "x\0", "é"])
        rows = ",".join(names) + "\n" + rest
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    path.with_suffix(".csv").write_text(rows, encoding="utf-8", errors="surrogatepass", newline="")
    return kind
