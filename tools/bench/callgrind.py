"""Reads what callgrind has counted, and shares it out among the steps of a request."""
import collections
import re


class Profile:
    """Instructions by function, and those of calls by (caller, callee). A function is (name, object file)."""

    def __init__(self, path):
        self.own = collections.Counter()
        self.calls = collections.Counter()
        with open(path, encoding="utf-8", errors="replace") as lines:
            self._read(lines)

    # https://valgrind.org/docs/manual/cl-format.html: a name is written out once, then told by its number.
    def _read(self, lines):
        functions, objects = {}, {}
        here = there = here_object = there_object = None
        is_call = False

        def name_of(table, text):
            number, name = re.fullmatch(r"\((\d+)\)(?: (.*))?", text).groups()
            if name is not None:
                table[number] = name
            return table[number]

        for line in lines:
            key, _, value = line.rstrip("\n").partition("=")
            if key == "ob":
                here_object = name_of(objects, value)
            elif key == "cob":
                there_object = name_of(objects, value)
            elif key == "fn":
                here = (name_of(functions, value), here_object)
            elif key == "cfn":
                there = (name_of(functions, value), there_object or here_object)
            elif key == "calls":
                is_call = True
            elif re.match(r"[-+*\d]", key):
                count = int((line.split() + ["0"])[1])
                if is_call:
                    self.calls[here, there] += count
                    is_call, there_object = False, None
                else:
                    self.own[here] += count


# Passing a cost on to callers is a walk that recursion could make endless; what is left then is small.
ROUNDS_MAX = 60


def share_out(profile, step_of):
    """Instructions by step. What `step_of` calls None is its callers' cost, as it was called by each."""
    steps = collections.Counter()
    callers = collections.defaultdict(list)
    for (caller, callee), count in profile.calls.items():
        if caller != callee and count > 0:
            callers[callee].append((caller, count))
    waiting = dict(profile.own)
    for _ in range(ROUNDS_MAX):
        passed_on = collections.Counter()
        for function, count in waiting.items():
            step = step_of(*function)
            if step is None and callers[function]:
                total = sum(part for _, part in callers[function])
                for caller, part in callers[function]:
                    passed_on[caller] += count * part / total
            else:
                steps[step] += count
        waiting = passed_on
        if sum(waiting.values()) < 1:
            break
    steps[None] += sum(waiting.values())
    return steps
