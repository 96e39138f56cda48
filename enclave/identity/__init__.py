"""Who a party is: its signing key, its TLS certificate, its public card, and the cards of those it trusts.

There is no certificate authority. A card is self-signed, is handed over by hand, and is trusted by name; TLS then
accepts exactly the certificates that stand in trusted cards, and nothing that merely chains to them. A hierarchy
would let whoever runs it add a party to a job; here only the operator of a node can.
"""

from enclave.identity.card import DOMAINS, MAX_CARD_BYTES, ROLES, Card, verify
from enclave.identity.home import Identity
from enclave.identity.trust import TrustStore

__all__ = ["DOMAINS", "MAX_CARD_BYTES", "ROLES", "Card", "Identity", "TrustStore", "verify"]
