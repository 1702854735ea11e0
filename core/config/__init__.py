"""Configurations: gin's syntax, checked settings, objects built from them. The public interface of
the package.

A class becomes configurable by ``@register(kind)``; a text becomes a ``Config`` by ``load_config``
or ``config_from_text``; a ``Config`` becomes objects by ``build``.
"""

from core.config.build import Factory, build
from core.config.config import Config, config_from_text, load_config
from core.config.library import ConfigLibrary, PresetPath
from core.config.parse import Plugins
from core.config.registry import (
    REQUIRED,
    Configurable,
    Parameter,
    RegisteredClass,
    forget_class,
    isolated_registry,
    lookup,
    parameter_help,
    register,
    registered_classes,
)
from core.config.value_types import (
    Above,
    AtLeast,
    Between,
    NonNegativeFloat,
    NonNegativeInt,
    OneSlot,
    Part,
    PositiveFloat,
    PositiveInt,
    Probability,
    PromptTemplate,
    Reference,
    Value,
    format_value,
    references,
)

__all__ = [
    "REQUIRED",
    "Above",
    "AtLeast",
    "Between",
    "Config",
    "ConfigLibrary",
    "Configurable",
    "Factory",
    "NonNegativeFloat",
    "NonNegativeInt",
    "OneSlot",
    "Parameter",
    "Part",
    "Plugins",
    "PositiveFloat",
    "PositiveInt",
    "PresetPath",
    "Probability",
    "PromptTemplate",
    "Reference",
    "RegisteredClass",
    "Value",
    "build",
    "config_from_text",
    "forget_class",
    "format_value",
    "isolated_registry",
    "load_config",
    "lookup",
    "parameter_help",
    "references",
    "register",
    "registered_classes",
]
