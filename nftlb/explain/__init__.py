"""Which pool takes a packet, which backends it may meet, what is rewritten, and why. Pure."""

from .answer import Answer, Candidate, Explanation, Near, Question, Way
from .explain import explain
from .text import as_data, as_text

__all__ = ["Answer", "Candidate", "Explanation", "Near", "Question", "Way", "as_data", "as_text", "explain"]
