"""The examples at the end of a command's help; commands that must begin fast load nothing else with it."""


def examples(*lines: str) -> str:
    """What stands at the end of a command's help; the control character keeps click from filling the lines."""
    return "\n".join(["\b", "Example:" if len(lines) == 1 else "Examples:", *(f"  {line}" for line in lines)])
