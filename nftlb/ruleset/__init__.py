"""nftables objects and transactions as values, with their nft text."""

from .address_ranges import AddressRanges, merged
from .listing import OF_REPLIES, PROTOCOLS, UNREADABLE, Count, Listing, ReplyCount, canonical_rule, counter_owner
from .objects import (
    Chain,
    Element,
    Hook,
    MadeElements,
    NamedObject,
    Ruleset,
    Set,
    Table,
    TableFamily,
    make_element,
)
from .ownership import MARK, is_empty, is_ours
from .shared_mapping import SharedMapping
from .text import element_text, file_lines, file_pieces, file_text, set_body
from .transaction import Elements, Object, Operation, Rules, Transaction, Verb

__all__ = [
    "MARK",
    "OF_REPLIES",
    "PROTOCOLS",
    "UNREADABLE",
    "AddressRanges",
    "Chain",
    "Count",
    "Element",
    "Elements",
    "Hook",
    "Listing",
    "MadeElements",
    "NamedObject",
    "Object",
    "Operation",
    "ReplyCount",
    "Rules",
    "Ruleset",
    "Set",
    "SharedMapping",
    "Table",
    "TableFamily",
    "Transaction",
    "Verb",
    "canonical_rule",
    "counter_owner",
    "element_text",
    "file_lines",
    "file_pieces",
    "file_text",
    "is_empty",
    "is_ours",
    "make_element",
    "merged",
    "set_body",
]
