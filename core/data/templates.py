"""The rule for prompt templates, wherever one is given."""


def require_template(template: object, where: str) -> str:
    """The template. Raises ValueError unless it is text with one ``{}`` and no other brace."""
    if not isinstance(template, str) or not _has_one_slot(template):
        raise ValueError(f"{where}: template must be text with one {{}}, got {template!r}")
    return template


def _has_one_slot(template: str) -> bool:
    return [template.count(mark) for mark in ("{}", "{", "}")] == [1, 1, 1]
