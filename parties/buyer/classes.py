"""Which class of a classifier is which class of the encoding, told by the labels that it was fitted with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from enclave.datasets.canonical import canonical_text
from enclave.errors import BadModel
from enclave.messages import Category, Encoding

__all__ = ["class_order"]

_SHOWN = 12


def class_order(labels: Sequence[Any], encoding: Encoding) -> tuple[int, ...]:
    """For every class of the encoding's target, in order, the index into `labels` that means it.

    A label is matched like a value of a data set. Labels 0, 1, ... (or False, True) that the encoding does not know
    are numbers of classes. Without a class target there is nothing to match, and the order stays.

    Raises: BadModel naming both orders, when labels and classes do not match one to one.
    """
    same = tuple(range(len(labels)))
    target = encoding.target
    if target is None or target.classes is None:
        return same
    classes = target.classes.classes
    texts = [canonical_text(label) for label in labels]
    known = {value: i for i, category in enumerate(classes) for value in category.values}
    numbers = [[str(i) for i in same], ["false", "true"]]
    if texts in numbers and len(texts) == len(classes) and not any(text in known for text in texts):
        return same
    other = next((i for i, category in enumerate(classes) if category.other), -1)
    meant = [known.get(text, other) for text in texts]
    if sorted(meant) != list(range(len(classes))):
        raise BadModel(
            f"the model's classes are not those of target {target.column!r}: expected, in the encoding's order,"
            f" {_list([_show(category) for category in classes])}; found, in the model's order, {_list(texts)}",
            hint="fit the model with the values that the encoding names, or with 0, 1, ... in the encoding's order",
        )
    return tuple(meant.index(i) for i in range(len(classes)))


def _show(category: Category) -> str:
    return "/".join(category.values) or ("missing" if category.missing else "other")


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:40]) for name in names[:_SHOWN])
    return f"[{shown}{f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''}]"
