"""Losses and their derivatives, which replace CrypTen's; see `gradients`."""

from __future__ import annotations

from typing import Any

from enclave.engines.mpc.fence import functions
from enclave.engines.mpc.fence.share import Share
from enclave.errors import BadSpec

__all__ = ["BinaryCrossEntropy", "BinaryCrossEntropyWithLogits", "CrossEntropy"]


def _entropy(probability: Any, target: Any) -> Any:
    """- mean(t log p + (1 - t) log(1 - p)) for p in [0, 1]."""
    both = Share.stack([probability._tensor, probability._tensor.neg().add(1.0)])
    positive, negative = (probability.wrap(share) for share in functions.log(both, input_in_01=True).unbind(0))
    return positive.sub(negative).mul(target).add(negative).mean().neg()


class BinaryCrossEntropy:
    """The loss of probabilities. Its gradient divides by p and 1 - p, which count as no less than 2^-12."""

    @staticmethod
    def forward(ctx: Any, probability: Any, target: Any, skip_forward: bool = False) -> Any:
        ctx.mark_non_differentiable(target)
        ctx.save_multiple_for_backward([probability, target])
        return probability.new(0) if skip_forward else _entropy(probability, target)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        p, target = ctx.saved_tensors
        both = Share.stack([p._tensor, p._tensor.neg().add(1.0)])
        inverse = functions.wide_reciprocal(both, positive=True)
        positive, negative = (p.wrap(share) for share in inverse.unbind(0))
        slope = negative.mul(target.neg().add(1.0)).sub(positive.mul(target))
        return slope.mul(gradient).div(target.nelement())


class BinaryCrossEntropyWithLogits:
    """The loss of logits."""

    @staticmethod
    def forward(ctx: Any, logit: Any, target: Any, skip_forward: bool = False) -> Any:
        if logit.size() != target.size():
            raise BadSpec(f"logits of shape {tuple(logit.size())} and targets of shape {tuple(target.size())}")
        probability = logit.sigmoid()
        ctx.mark_non_differentiable(target)
        ctx.save_multiple_for_backward([target, probability])
        return logit.new(0) if skip_forward else _entropy(probability, target)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        target, probability = ctx.saved_tensors
        return probability.sub(target).mul(gradient).div(target.nelement())


class CrossEntropy:
    """The loss of logits against one-hot rows: no logarithm of a rounded probability is taken."""

    @staticmethod
    def forward(ctx: Any, logits: Any, target: Any, skip_forward: bool = False) -> Any:
        if logits.size() != target.size():
            raise BadSpec(f"logits of shape {tuple(logits.size())} and targets of shape {tuple(target.size())}")
        dim = 1 if logits.dim() > 1 else 0
        ctx.mark_non_differentiable(target)
        ctx.save_multiple_for_backward([logits.softmax(dim), target])
        if skip_forward:
            return logits.new(0)
        return logits.log_softmax(dim).mul(target).sum().div(target.size(0)).neg()

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        softmax, target = ctx.saved_tensors
        return softmax.sub(target).mul(gradient).div(target.size(0))
