"""Explains a packet: which pool it goes to, which backends may get it, what is rewritten, and why. Pure."""

from .explain import explain_packet
from .explanation import Candidate, Explanation, NearListener, PacketPath, Question, Treatment, as_data, as_text

__all__ = [
    "Candidate",
    "Explanation",
    "NearListener",
    "PacketPath",
    "Question",
    "Treatment",
    "as_data",
    "as_text",
    "explain_packet",
]
