"""Holding a document against the part of JSON schema that the report uses."""


def assert_matches_schema(value, rule, where="report"):
    """The part of JSON schema that ours uses."""
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
    kinds |= {"null": type(None)}
    if "const" in rule:
        assert value == rule["const"], where
    if wanted := rule.get("type"):
        wanted = [wanted] if isinstance(wanted, str) else wanted
        types = tuple(t for w in wanted for t in ([int, float] if w == "number" else [kinds[w]]))
        assert isinstance(value, types), f"{where}: {value!r} is no {wanted}"
    if isinstance(value, dict):
        assert set(rule.get("required", ())) <= set(value), where
        known = rule.get("properties", {})
        if known and not rule.get("additionalProperties"):
            assert set(value) <= set(known), f"{where}: {set(value) - set(known)} not documented"
        for key, item in value.items():
            assert_matches_schema(
                item, known.get(key, rule.get("additionalProperties") or {}), f"{where}.{key}"
            )
    if isinstance(value, list):
        for index, item in enumerate(value):
            assert_matches_schema(item, rule.get("items", {}), f"{where}[{index}]")
