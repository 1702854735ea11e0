"""A check of a contract, and how it ends."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from core.streams import one_line

Case = TypeVar("Case")
Check = Callable[[Case], None]
"""Raises ``ContractError`` where the case does not fulfil it."""

MOST_DIGITS = 160


class ContractError(AssertionError):
    """A class breaks the contract of its kind."""


def require(condition: bool, otherwise: str) -> None:
    """Raise ``ContractError`` that says what is otherwise, unless the condition holds."""
    if not condition:
        raise ContractError(otherwise)


def require_close(
    found: Tensor,
    expected: Tensor,
    otherwise: str,
    *,
    atol: float | None = None,
    rtol: float | None = None,
) -> None:
    """Raise ``ContractError`` unless two tensors agree within torch's tolerances, or these."""
    try:
        torch.testing.assert_close(found, expected, atol=atol, rtol=rtol)
    except AssertionError as error:
        raise ContractError(f"{otherwise}: {one_line(str(error))[:MOST_DIGITS]}") from None


def title_of(check: Check[Case]) -> str:
    """The name of a check in words."""
    return check.__name__.removeprefix("check_").replace("_", " ")


def problem_of(check: Check[Case], case: Case) -> str:
    """What is wrong with a case, "" where it fulfils the check. Any error is one."""
    try:
        check(case)
    except ContractError as error:
        return one_line(str(error))
    except Exception as error:  # of code from elsewhere
        return one_line(f"{type(error).__name__}: {error}")
    return ""
