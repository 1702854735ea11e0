"""The rule for prompt templates, wherever one is given."""

from core.config import OneSlot


def require_template(template: object, where: str) -> str:
    """The template. Raises ValueError unless it is text with one ``{}`` and no other brace."""
    if not isinstance(template, str) or not OneSlot().allows(template):
        raise ValueError(f"{where}: template must be text with one {{}}, got {template!r}")
    return template
