"""Reads Prometheus' text exposition format 0.0.4, and accepts nothing else.

https://prometheus.io/docs/instrumenting/exposition_formats/, and what promtool asks beyond it: a
HELP for each family, counters that end in _total, whole histograms.
"""

import math
import re
from dataclasses import dataclass, field

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL_NAME = r"[a-zA-Z_][a-zA-Z0-9_]*"
LABEL = rf'({LABEL_NAME})="((?:[^"\\\n]|\\["\\n])*)"'
SAMPLE = re.compile(rf"({NAME})(?:\{{({LABEL}(?:,{LABEL})*)\}})? ([^ ]+)")
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]Inf|NaN")
TYPES = ("counter", "gauge", "histogram")
UNESCAPED = {"\\": "\\", '"': '"', "n": "\n"}


class Malformed(Exception):
    """The text is not what Prometheus takes; says where and why."""


@dataclass
class Family:
    name: str
    help: str
    type: str = ""
    samples: list = field(default_factory=list)  # (name, labels as a frozenset of pairs, value)


def parse(text):
    """{name: Family}. Malformed names the first line that is wrong."""
    if not text.endswith("\n"):
        raise Malformed("the last line does not end")
    families, seen = {}, set()
    family = None
    for number, line in enumerate(text[:-1].split("\n"), 1):
        try:
            family = _read(line, family, families, seen)
        except Malformed as why:
            raise Malformed(f"line {number}: {why}: {line}") from None
    for family in families.values():
        _check(family)
    return families


def value_of(families, name, **labels):
    """The one sample of this name with these labels and perhaps others."""
    wanted = set(labels.items())
    found = [
        value
        for family in families.values()
        for sample, its, value in family.samples
        if sample == name and wanted <= its
    ]
    if len(found) != 1:
        raise Malformed(f"{len(found)} samples {name} {labels}")
    return found[0]


def _read(line, family, families, seen):
    if match := re.fullmatch(rf"# HELP ({NAME}) (.+)", line):
        if match[1] in families:
            raise Malformed("a family stands in two places")
        if re.search(r"\\(?![\\n])", match[2].replace("\\\\", "")):
            raise Malformed("help is not escaped")
        families[match[1]] = Family(match[1], match[2])
        return families[match[1]]
    if match := re.fullmatch(rf"# TYPE ({NAME}) (\w+)", line):
        if family is None or family.name != match[1] or family.type or match[2] not in TYPES:
            raise Malformed("a type that does not follow its help, or is none")
        family.type = match[2]
        return family
    match = SAMPLE.fullmatch(line)
    if not match or not NUMBER.fullmatch(line.rsplit(" ", 1)[1]):
        raise Malformed("neither help, type nor sample")
    if family is None or not family.type or match[1] not in _names(family):
        raise Malformed("a sample outside its family")
    pairs = [(name, _unescape(value)) for name, value in re.findall(LABEL, match[2] or "")]
    labels = frozenset(pairs)
    if len({name for name, _ in pairs}) != len(pairs):
        raise Malformed("a label stands twice")
    if (match[1], labels) in seen:
        raise Malformed("a sample stands twice")
    seen.add((match[1], labels))
    family.samples.append((match[1], labels, float(line.rsplit(" ", 1)[1])))
    return family


def _names(family):
    suffixes = ("_bucket", "_sum", "_count") if family.type == "histogram" else ("",)
    return [family.name + suffix for suffix in suffixes]


def _unescape(value):
    return re.sub(r"\\(.)", lambda match: UNESCAPED[match[1]], value)


def _check(family):
    if not family.type or not family.samples:
        raise Malformed(f"{family.name} has no type or no samples")
    if (family.type == "counter") != family.name.endswith("_total"):
        raise Malformed(f"{family.name} is a {family.type}")
    for name, labels, value in family.samples:
        if family.type == "counter" and not (value >= 0 and math.isfinite(value)):
            raise Malformed(f"counter {name} {set(labels)} is {value}")
        if ("le" in dict(labels)) != name.endswith("_bucket"):
            raise Malformed(f"{name} {set(labels)}: le belongs to buckets, and to each")
    if family.type == "histogram":
        _check_histogram(family)


def _check_histogram(family):
    series = {}
    for name, labels, value in family.samples:
        rest = frozenset(pair for pair in labels if pair[0] != "le")
        one = series.setdefault(rest, {"buckets": []})
        if name.endswith("_bucket"):
            one["buckets"].append((float(dict(labels)["le"]), value))
        else:
            one[name.rsplit("_", 1)[1]] = value
    for labels, one in series.items():
        limits = [limit for limit, _ in one["buckets"]]
        counts = [count for _, count in one["buckets"]]
        if limits != sorted(set(limits)) or limits[-1:] != [math.inf]:
            raise Malformed(f"buckets of {family.name} {set(labels)}: {limits}")
        if counts != sorted(counts) or one.get("count") != counts[-1] or "sum" not in one:
            raise Malformed(f"{family.name} {set(labels)} contradicts itself: {one}")
