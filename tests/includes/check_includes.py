#!/usr/bin/env python3
"""Keeps the direction of the include lines.

A folder may include itself and what stands before it in LAYERS; tools and tests may look at
everything. Each third-party library has one door: the one folder that may name its headers.

    check_includes.py [ROOT]     prints every offending line; exit 0 when there is none, else 1
"""
import pathlib
import re
import sys

LAYERS = ["base", "scheduler", "journal", "extent", "fs"]
ABOVE_ALL = ["tools", "tests"]
DOORS = [  # what an include line names, and the only folder that may
    (re.compile(r"liburing(\.h|/)"), "scheduler"),
    (re.compile(r"(fuse3?/|linux/fuse\.h|(fuse|cuse)(_\w+)?\.h)"), "fs"),
    (re.compile(r"(isa-l\.h|isa-?l/)"), "extent"),
]
# Programs and libraries of their own, which share nothing with ours.
ALONE = {"tools/bench/ring_for_valgrind.c", "tools/bench/slow_disk.cpp"}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
SOURCES = {".cpp", ".hpp", ".cc", ".h", ".c", ".hh"}


def offence(folder, quote, target):
    """Why `folder` may not include `target`, or None when it may."""
    for pattern, door in DOORS:
        if pattern.match(target) and folder != door:
            return f"only {door}/ may include it"
    if quote == "<" or folder in ABOVE_ALL:
        return None
    first = target.split("/")[0]
    if first in ABOVE_ALL or (first in LAYERS and LAYERS.index(first) > LAYERS.index(folder)):
        return f"{first}/ is above {folder}/"
    if first not in LAYERS:
        return "our own headers are named from the root, as in \"base/result.hpp\""
    return None


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parents[2])
    found = 0
    for folder in LAYERS + ABOVE_ALL:
        for path in sorted(p for p in (root / folder).rglob("*") if p.suffix in SOURCES):
            if str(path.relative_to(root)) in ALONE:
                continue
            for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
                match = INCLUDE.match(line)
                reason = match and offence(folder, *match.groups())
                if reason:
                    found += 1
                    print(f"{path.relative_to(root)}:{number}: {line.strip()}: {reason}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
