"""CrypTen's configuration: stands for `crypten.config.config`.

Settings hang on the fence of the running session. What chooses a provider, a protocol or a debugging mode can be
read and not changed: the modes of stock that they select either do not exist here or reveal values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from enclave.engines.mpc.fence.active import DEFAULT_FRAC_BITS, current, current_or_none
from enclave.errors import Unsupported

__all__ = ["CrypTenConfig"]

_FIXED: dict[str, Any] = {
    "communicator.verbose": False,
    "debug.debug_mode": False,
    "debug.validation_mode": False,
    "mpc.active_security": False,
}
# A program may name what it would run on; the session's protocols and dealer take the place of all of them.
_NAMED: dict[str, tuple[str, ...]] = {
    "mpc.protocol": ("beaver", "replicated"),
    "mpc.provider": ("TFP", "TTP", "HE"),
}
# They tune approximations of stock that are not used here; programs may set them, to no effect.
_IDLE: dict[str, Any] = {
    "functions.max_method": "log_reduction",
    "functions.exp_iterations": 8,
    "functions.reciprocal_method": "NR",
    "functions.reciprocal_nr_iters": 10,
    "functions.reciprocal_log_iters": 1,
    "functions.reciprocal_all_pos": False,
    "functions.reciprocal_initial": None,
    "functions.sqrt_nr_iters": 3,
    "functions.sqrt_nr_initial": None,
    "functions.sigmoid_tanh_method": "reciprocal",
    "functions.sigmoid_tanh_terms": 32,
    "functions.log_iterations": 2,
    "functions.log_exp_iterations": 8,
    "functions.log_order": 8,
    "functions.trig_iterations": 10,
    "functions.erf_iterations": 8,
}
_PRECISION = "encoder.precision_bits"
_NAMES = frozenset({*_FIXED, *_NAMED, *_IDLE, _PRECISION})
_SECTIONS = frozenset(name.split(".")[0] for name in _NAMES)


def _read(name: str) -> Any:
    fence = current_or_none()
    if name == _PRECISION:
        return DEFAULT_FRAC_BITS if fence is None else fence.frac_bits
    if name in _FIXED:
        return _FIXED[name]
    if name in _NAMED or name in _IDLE:
        first = _NAMED[name][0] if name in _NAMED else _IDLE[name]
        return first if fence is None else fence.settings.get(name, first)
    raise AttributeError(f"CrypTen has no setting {name}")


def _write(name: str, value: Any) -> None:
    if name in _FIXED:
        if value != _FIXED[name]:
            raise Unsupported(f"cfg.{name} = {value!r}", f"it is {_FIXED[name]!r} and stays so")
    elif name == _PRECISION:
        current().frac_bits = value
    elif name in _NAMED and value not in _NAMED[name]:
        raise Unsupported(f"cfg.{name} = {value!r}", f"CrypTen has {', '.join(_NAMED[name])}")
    elif name in _NAMED or name in _IDLE:
        current().settings[name] = value
    else:
        raise Unsupported(f"cfg.{name}", "there is no such setting")


class _Section:
    """One part of the configuration, such as cfg.encoder."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        object.__setattr__(self, "_name", name)

    def __getattr__(self, name: str) -> Any:
        return _read(f"{self._name}.{name}")

    def __setattr__(self, name: str, value: Any) -> None:
        _write(f"{self._name}.{name}", value)

    __getitem__, __setitem__ = __getattr__, __setattr__

    def __repr__(self) -> str:
        return f"{self._name}: {[name for name in sorted(_NAMES) if name.startswith(self._name + '.')]}"


class CrypTenConfig:
    """`cfg`: sections as attributes, or names with dots."""

    __slots__ = ()

    def __init__(self, config_file: None = None) -> None:
        self.load_config(config_file)

    def load_config(self, config_file: str | None) -> None:
        """Refused for any file."""
        if config_file is not None:
            raise Unsupported("cfg.load_config", "a file could choose what is fixed", hint="set what you need by name")

    def set_config(self, config: Any) -> None:
        """Refused."""
        raise Unsupported("cfg.set_config", "it would replace what is fixed", hint="set what you need by name")

    def __getattr__(self, name: str) -> Any:
        if "." in name:
            return _read(name)
        if name in _SECTIONS:
            return _Section(name)
        raise AttributeError(f"CrypTen has no settings {name}")

    def __setattr__(self, name: str, value: Any) -> None:
        _write(name, value)

    __getitem__, __setitem__ = __getattr__, __setattr__

    @contextmanager
    def temp_override(self, override_dict: Mapping[str, Any]) -> Iterator[None]:
        """Settings for a while."""
        before = {name: _read(name) for name in override_dict}
        try:
            for name, value in override_dict.items():
                _write(name, value)
            yield
        finally:
            for name, value in before.items():
                _write(name, value)
