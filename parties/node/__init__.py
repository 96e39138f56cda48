"""A party node: the one servicer of owners and dealers, its lease loop, and how it is put together."""

from parties.node.assembly import NodeProcess, open_node
from parties.node.servicer import Node

__all__ = ["Node", "NodeProcess", "open_node"]
