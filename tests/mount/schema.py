"""Holds JSON against a JSON Schema, and notes what of the schema was met.

Only as much of the language as man/status.schema.json uses; a keyword beyond it is an error.
"""

import re

KEYWORDS = {
    "$ref", "$schema", "$defs", "title", "description", "type", "enum", "oneOf", "required", "properties",
    "patternProperties", "additionalProperties", "items", "minimum", "maxItems",
}
TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}


class Violation(Exception):
    """The value is not as the schema says; names the place."""


class Schema:
    def __init__(self, root):
        self.root = root
        self.met = set()  # ids of the property schemas that a value was held against

    def check(self, value):
        self._check(value, self.root, "$")

    def never_met(self):
        """Keys and patterns that are documented and were in no value so far."""
        found = []
        self._walk(self.root, "", found)
        return found

    def _walk(self, schema, path, found):
        for keyword in ("properties", "patternProperties"):
            for key, inner in schema.get(keyword, {}).items():
                if id(inner) not in self.met:
                    found.append(f"{path}.{key}")
                else:
                    self._walk(inner, f"{path}.{key}", found)
        for key, inner in schema.get("$defs", {}).items():
            self._walk(inner, key, found)
        if "items" in schema:
            self._walk(schema["items"], path + "[]", found)

    def _check(self, value, schema, path):
        if unknown := set(schema) - KEYWORDS:
            raise Violation(f"the schema at {path} has {unknown}")
        if "$ref" in schema:
            self._check(value, self.root["$defs"][schema["$ref"].rsplit("/", 1)[1]], path)
        if "oneOf" in schema:
            self._check_one_of(value, schema["oneOf"], path)
        if "type" in schema and not self._is(value, schema["type"]):
            raise Violation(f"{path} is no {schema['type']}: {value!r}")
        if "enum" in schema and value not in schema["enum"]:
            raise Violation(f"{path} is none of {schema['enum']}: {value!r}")
        if "minimum" in schema and value < schema["minimum"]:
            raise Violation(f"{path} is {value}")
        if isinstance(value, dict):
            self._check_object(value, schema, path)
        if isinstance(value, list):
            if len(value) > schema.get("maxItems", len(value)):
                raise Violation(f"{path} has {len(value)} items")
            for index, item in enumerate(value):
                self._check(item, schema.get("items", {}), f"{path}[{index}]")

    @staticmethod
    def _is(value, name):
        return isinstance(value, TYPES[name]) and (name == "boolean" or not isinstance(value, bool))

    def _check_one_of(self, value, choices, path):
        fitting, why = 0, []
        for choice in choices:
            try:
                self._check(value, choice, path)
                fitting += 1
            except Violation as violation:
                why.append(str(violation))
        if fitting != 1:
            raise Violation(f"{path} fits {fitting} of {len(choices)}: {why}")

    def _check_object(self, value, schema, path):
        if lacking := set(schema.get("required", ())) - set(value):
            raise Violation(f"{path} lacks {lacking}")
        for key, inner in value.items():
            fitting = [schema["properties"][key]] if key in schema.get("properties", {}) else []
            patterns = schema.get("patternProperties", {})
            fitting += [patterns[pattern] for pattern in patterns if re.search(pattern, key)] if not fitting else []
            other = schema.get("additionalProperties", True)
            if not fitting and other is False:
                raise Violation(f"{path} has {key}, which is not documented")
            if not fitting and isinstance(other, dict):
                fitting = [other]
            for one in fitting:
                self.met.add(id(one))
                self._check(inner, one, f"{path}.{key}")
