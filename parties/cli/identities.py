"""`enclave init`, `trust`, `card`, `move` and `rotate`: who this party is and whom it accepts."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from enclave.errors import BadInput
from enclave.identity import MAX_CARD_BYTES, Card, Identity, TrustStore
from parties.cli.console import Answer, Console
from parties.config import NodeConfig, readdress, write_default

__all__ = ["COMMANDS"]

_NODES = ("owner", "dealer")


def _init(args: Namespace, console: Console) -> Answer:
    home: Path = args.home
    serves = args.role in _NODES
    if not serves and (args.listen or args.advertise):
        raise BadInput(
            f"{args.role} does not listen", hint="leave --listen and --advertise out: only nodes have an address"
        )
    listen = (args.listen or NodeConfig().listen) if serves else ""
    address = args.advertise or listen
    if serves:
        _reachable(address, "say where they reach this node with --advertise HOST:PORT")
        # Checked before anything is written: a home that is made by half cannot be made again.
        NodeConfig(listen=listen, advertise=args.advertise or "")
    identity = Identity.create(home, args.role, args.name, address, organisation=args.organisation)
    if serves:
        write_default(home, listen=listen, advertise=args.advertise or "")
    value = {**_card_value(identity.card), "home": str(home), "card": str(home / "card")}
    lines = [f"{identity.role} {identity.name} lives in {home}", f"key      {_digits(identity.key_id)}"]
    if serves:
        lines.append(f"address  {address}" + (f" (listens on {listen})" if listen != address else ""))
    lines.append(f"card     {home / 'card'}")
    lines.append("next     give the card to the other parties, and `enclave trust` theirs")
    return Answer(value, "\n".join(lines))


def _trust(args: Namespace, console: Console) -> Answer:
    own = Identity.load(args.home)
    with args.card.open("rb") as file:
        data = file.read(MAX_CARD_BYTES + 1)
    card = TrustStore(own.home).add(data, replace=args.replace)
    where = f" at {card.address}" if card.address else ""
    text = (
        f"{own.name} trusts {card.role} {card.name}{where}\n"
        f"run by   {card.organisation}\n"
        f"key      {_digits(card.key_id)}\n"
        f"next     compare these digits with {card.name} by telephone"
    )
    return Answer(_card_value(card), text)


def _card(args: Namespace, console: Console) -> Answer:
    identity = Identity.load(args.home)
    path = identity.home / "card"
    if args.out is not None:
        if args.out.exists():
            raise BadInput(f"{args.out} exists already", hint="choose another file name")
        args.out.write_bytes(identity.card.encoded)
        path = args.out
    value = {**_card_value(identity.card), "card": str(path), "expires_unix_s": identity.expires_unix_s}
    lines = [f"{identity.role} {identity.name}", f"run by   {identity.card.organisation}"]
    lines.append(f"key      {_digits(identity.key_id)}")
    if identity.card.address:
        lines.append(f"address  {identity.card.address}")
    lines.append(f"expires  {_day(identity.expires_unix_s)}")
    lines.append(f"card     {path}")
    trusted = TrustStore(identity.home)
    value["trusts"] = [_card_value(card) for card in trusted.cards()]
    lines += [f"trusts   {card.role} {card.name}  {_digits(card.key_id)}" for card in trusted.cards()]
    for problem in trusted.problems():
        console.note(f"ignored  {problem}")
    return Answer(value, "\n".join(lines))


def _rotate(args: Namespace, console: Console) -> Answer:
    identity = Identity.load(args.home, expired_ok=True).rotate(keep_old=not args.drop_old)
    path = identity.home / "card"
    value = {**_card_value(identity.card), "card": str(path), "expires_unix_s": identity.expires_unix_s}
    text = (
        f"{identity.name} has a new certificate until {_day(identity.expires_unix_s)}\n"
        f"card     {path}\n"
        "next     give the new card to the other parties now (`enclave trust`): a running node shows the new "
        "certificate from its next connection on"
    )
    return Answer(value, text)


def _move(args: Namespace, console: Console) -> Answer:
    identity = Identity.load(args.home, expired_ok=True)
    if identity.role not in _NODES:
        raise BadInput(f"{identity.role} {identity.name} does not listen", hint="only nodes have an address")
    _reachable(args.address, "name the address that they dial; where this node binds is --listen HOST:PORT")
    before = identity.card.address
    config = readdress(args.home, args.address, args.listen or "")
    identity = identity.move(args.address)
    path = identity.home / "card"
    value = {**_card_value(identity.card), "card": str(path), "listen": config.listen, "before": before}
    text = (
        f"{identity.name} is now at {args.address}, before at {before}\n"
        f"listens  {config.listen}\n"
        f"card     {path}\n"
        f"next     restart the node if it runs, and give the new card to the other parties (`enclave trust`): until "
        f"they have it, they dial {before}"
    )
    return Answer(value, text)


def _reachable(address: str, hint: str) -> None:
    host, _, _ = address.rpartition(":")
    if host in ("0.0.0.0", "[::]", "*"):  # noqa: S104 - refused here, not bound
        raise BadInput(f"others cannot connect to {address}", hint=hint)


def _card_value(card: Card) -> dict[str, Any]:
    return {
        "role": card.role,
        "name": card.name,
        "organisation": card.organisation,
        "address": card.address,
        "key_id": card.key_id.hex(),
    }


def _digits(key_id: bytes) -> str:
    """The first 128 bits of a key id in groups that can be read out."""
    text = key_id.hex()[:32]
    return " ".join(text[i : i + 4] for i in range(0, 32, 4))


def _day(unix_s: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(unix_s))


COMMANDS: Mapping[str, Callable[[Namespace, Console], Answer]] = {
    "init": _init,
    "trust": _trust,
    "card": _card,
    "move": _move,
    "rotate": _rotate,
}
