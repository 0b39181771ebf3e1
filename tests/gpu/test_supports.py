"""What the Triton backend says it can compute, which needs no GPU to be asked."""

from __future__ import annotations

from maskc.backends import Refusal, Request
from maskc.backends.triton import supports
from maskc.lower import lower_text


def asked(text: str, needs_grad: bool = False, **args: bool | int | float) -> Refusal | None:
    """What is said of a pattern with arguments."""
    request = Request(device="cuda", dtype="float32", needs_grad=needs_grad, args=tuple(args.items()))
    return supports(lower_text(text)[0], request)


def test_arguments_of_every_type_may_be_unknown() -> None:
    assert asked("pattern p(wide: bool, n: int, x: float) { attend wide & q - k < n\n score s * x }") is None
    assert asked("pattern p(mode: {near, far}) { attend match mode { near: causal; far: all } }") is None


def test_arguments_decide_what_can_be_written() -> None:
    power = "pattern p(y: float) { attend causal\n score abs(s) ** y }"
    assert asked(power, y=2.0) is None
    refused = asked(power, y=1.5)
    assert refused is not None
    assert "power" in refused.reason
    branch = "pattern p(hard: bool) { attend causal\n score match hard { true: abs(s) ** s; false: s } }"
    assert asked(branch, hard=False) is None
    assert asked(branch, hard=True) is not None


def test_to_freeze_is_advised_where_it_helps() -> None:
    by_score = "pattern p(bias: float[head, 9]) { attend causal\n score s + bias[h, floor(s)] }"
    assert asked(by_score) is None
    frozen = asked(by_score, needs_grad=True)
    assert frozen is not None
    assert "no_grad" in frozen.remedy
    for needs_grad in (False, True):
        refused = asked("pattern p { attend causal\n score abs(s) ** s }", needs_grad)
        assert refused is not None
        assert refused.remedy == ""
