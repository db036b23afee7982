"""nftables objects as values, their text, and the way back from a listing."""

from .layers import Layers, layers
from .listing import UNREADABLE, Count, Listing, canonical_rule, parse_table
from .objects import Chain, Element, Ruleset, Set, Table, TableFamily
from .ownership import MARK, is_empty, is_ours
from .text import element_text, file_text, set_body

__all__ = [
    "MARK",
    "UNREADABLE",
    "Chain",
    "Count",
    "Element",
    "Layers",
    "Listing",
    "Ruleset",
    "Set",
    "Table",
    "TableFamily",
    "canonical_rule",
    "element_text",
    "file_text",
    "is_empty",
    "is_ours",
    "layers",
    "parse_table",
    "set_body",
]
