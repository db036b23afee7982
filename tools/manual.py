"""Writes the manual pages of the package: manual.py DIRECTORY.

DIRECTORY gets nftlb.8, a page for each command (nftlb-check.8), and nftlb.yaml.5. Their text is that of the commands'
help, of docs/configuration.md, and of two tables: the exit statuses in docs/commands.md and the files in
docs/install.md. The same input gives the same bytes.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import click
from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

from nftlb.cli.group import COMMANDS, root

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


ROOT = Path(__file__).resolve().parents[1]
_MARKDOWN = MarkdownIt("commonmark").enable("table")
_TITLES = {5: "File Formats", 8: "System Administration"}
_BOLD, _ITALIC = r"\fB", r"\fI"


def pages() -> dict[str, str]:
    """The pages by the names of their files, as roff text."""
    everything = {
        "nftlb.8": _overview(),
        **{f"nftlb-{name}.8": _command_page(name) for name in COMMANDS},
        "nftlb.yaml.5": _file_page(),
    }
    names = list(everything)
    return {name: text + _see_also(name, names) for name, text in everything.items()}


def command_context(name: str) -> click.Context:
    """The context of the command of this name, as its help has it. KeyError if there is none."""
    parent = root.context_class(root, info_name="nftlb", **root.context_settings)
    command = root.get_command(parent, name)
    if command is None:
        raise KeyError(name)
    return command.context_class(command, info_name=name, parent=parent)


def paragraphs(text: str) -> Iterator[tuple[bool, str]]:
    """The paragraphs of a command's help, and whether their lines must stay as they are."""
    for paragraph in re.split(r"\n\s*\n", _dedented(text)):
        if paragraph.startswith("\b"):
            yield True, paragraph.removeprefix("\b").strip("\n")
        elif paragraph.strip():
            yield False, " ".join(paragraph.split())


def options(context: click.Context) -> Iterator[tuple[str, str]]:
    """The options of a command, as `-o, --output FILE`, with their help."""
    for parameter in context.command.get_params(context):
        if isinstance(parameter, click.Option) and (record := parameter.get_help_record(context)):
            yield record


# --- the pages -------------------------------------------------------------------------------------------------------


def _overview() -> str:
    lines = [
        *_head("nftlb", 8, "a UDP-first load balancer for Linux"),
        *_section("SYNOPSIS", rf"{_BOLD}nftlb\fR {_ITALIC}COMMAND\fR [{_ITALIC}OPTIONS\fR] ..."),
        *_section("DESCRIPTION"),
        *_help(root.help or ""),
        r".PP",
        _markdown_line(
            "The configuration is a YAML file; `nftlb.yaml(5)` describes the file. Each command has a page."
        ),
        *_section("COMMANDS"),
    ]
    for name, line in COMMANDS.items():
        lines += _entry(rf"{_BOLD}nftlb\-{name}\fR(8)", _markdown_line(line))
    lines += [*_section("ENVIRONMENT"), *_rows("commands.md", r"`-.*\| `NFTLB_", name=1)]
    lines += [*_section("FILES"), *_rows("install.md", r"`/|`nftlb.*service")]
    return _text([*lines, *_section("EXIT STATUS"), *_rows("commands.md", r"\d")])


def _command_page(name: str) -> str:
    context = command_context(name)
    command = context.command
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [
        *_head(f"nftlb-{name}", 8, COMMANDS[name].rstrip(".")),
        *_section("SYNOPSIS", rf"{_BOLD}nftlb {name}\fR {_escaped(usage)}"),
        *_section("DESCRIPTION"),
        *_help(command.help or COMMANDS[name]),
        *_section("OPTIONS"),
    ]
    for option, text in options(context):
        lines += _entry(f"{_BOLD}{_escaped(option)}", _markdown_line(text))
    for verbatim, text in paragraphs(command.epilog or ""):
        title, _, rest = text.partition("\n")
        if verbatim and title.startswith("Example"):
            lines += [*_section("EXAMPLES"), *_verbatim(_dedented(rest))]
        else:
            lines += [".PP", _markdown_line(text)]
    return _text([*lines, *_section("EXIT STATUS", _markdown_line("See `nftlb(8)`, which also has the environment."))])


def _file_page() -> str:
    title, _, text = (ROOT / "docs/configuration.md").read_text().partition("\n")
    return _text([
        *_head("nftlb.yaml", 5, title.removeprefix("# The ").replace("file", "file of nftlb")),
        *_section("DESCRIPTION"),
        *_blocks(SyntaxTreeNode(_MARKDOWN.parse(text))),
    ])  # fmt: skip


def _see_also(name: str, names: Sequence[str]) -> str:
    others = ["nftlb.8", "nftlb.yaml.5"] if name != "nftlb.8" else [other for other in names if other != name]
    links = [f"{_BOLD}{_escaped(page)}\\fR({number})" for page, _, number in (o.rpartition(".") for o in others)]
    links.append(f"{_BOLD}nft\\fR(8)")
    links = [link for link in links if link != f"{_BOLD}{_escaped(name.rpartition('.')[0])}\\fR({name[-1]})"]
    documents = _markdown_line("The documents are in `/usr/share/doc/nftlb-daemon`.")
    return _text([*_section("SEE ALSO", ",\n".join(links)), ".PP", documents])


def _rows(document: str, first: str, name: int = 0) -> Iterator[str]:
    """The rows of tables in a document of docs/ that begin with a cell like `first`, as entries named by a column."""
    for line in (ROOT / "docs" / document).read_text().splitlines():
        if re.match(rf"\| ({first})", line):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            text = "; ".join(cell for column, cell in enumerate(cells) if column != name)
            yield from _entry(_markdown_line(cells[name]), _markdown_line(text))


# --- roff ------------------------------------------------------------------------------------------------------------


def _head(name: str, section: int, purpose: str) -> list[str]:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    purpose = purpose[:1].lower() + purpose[1:]
    return [
        f'.TH {_escaped(name.upper())} {section} "" "nftlb {version}" "{_TITLES[section]}"',
        ".SH NAME",
        rf"{_escaped(name)} \- {_escaped(purpose)}",
    ]


def _section(title: str, *lines: str) -> list[str]:
    return [f".SH {title}", *lines]


def _entry(name: str, text: str) -> list[str]:
    return [".TP", rf"{name}\fR", text]


def _verbatim(text: str) -> list[str]:
    return [".PP", ".RS 4", ".nf", *map(_escaped, text.strip("\n").split("\n")), ".fi", ".RE"]


def _help(text: str) -> Iterator[str]:
    for number, (verbatim, paragraph) in enumerate(paragraphs(text)):
        if verbatim:
            yield from _verbatim(paragraph)
        else:
            yield from [".PP"] if number else []
            yield _markdown_line(paragraph)


def _blocks(node: SyntaxTreeNode) -> Iterator[str]:
    """The blocks of a document in Markdown, a list or an item of a list."""
    for block in node.children:
        match block.type:
            case "heading":
                yield from [".SH" if block.tag == "h2" else ".SS", re.sub(r"\\f.", "", _inline(block))]
            case "paragraph":
                yield from [".PP", _inline(block)]
            case "code_block" | "fence":
                yield from _verbatim(block.content)
            case "bullet_list" | "ordered_list":
                yield from _list(block)
            case "table":
                yield from _table(block)


def _list(node: SyntaxTreeNode) -> Iterator[str]:
    inner = node.parent is not None and node.parent.type == "list_item"
    yield from [".RS 4"] if inner else []
    for item in node.children:
        # The first paragraph stands beside the bullet or the number.
        _, *rest = _blocks(item)
        yield from [rf".IP {item.info}. 4" if item.info else r".IP \(bu 4", *rest]
    yield from [".RE"] if inner else []


def _table(node: SyntaxTreeNode) -> Iterator[str]:
    """A row of a table is an entry: its first cell, then the others."""
    titles, *rows = [[_inline(cell) for cell in row.children] for part in node.children for row in part.children]
    for row in rows:
        yield from _row(titles, row)


def _row(titles: Sequence[str], cells: Sequence[str]) -> list[str]:
    """A row of a table. A column without a title is prose, and comes last; other columns come with their titles."""
    rest = list(zip(titles, cells, strict=True))[1:]
    named = [f"{title}: {cell}" for title, cell in rest if title and cell]
    prose = [cell[:1].upper() + cell[1:] for title, cell in rest if not title and cell]
    text = "\n".join(line.rstrip(".") + "." for line in [*named, *prose])
    return _entry(cells[0], text or r"\&")


def _markdown_line(text: str) -> str:
    """A paragraph with code in backticks and the like."""
    return _inline(SyntaxTreeNode(_MARKDOWN.parseInline(text)))


def _inline(node: SyntaxTreeNode) -> str:
    """The text of a paragraph, a heading or a cell."""
    # A line that begins with a full stop or an apostrophe is a request to roff.
    return re.sub(r"(?m)^(?=[.'])", r"\\&", _spans(node, r"\fR"))


def _spans(node: SyntaxTreeNode, font: str) -> str:
    parts = []
    for child in node.children:
        match child.type:
            case "text":
                parts.append(_escaped(child.content))
            case "code_inline":
                parts.append(f"{_BOLD}{_escaped(child.content)}{font}")
            case "softbreak" | "hardbreak":
                parts.append("\n")
            case "strong" | "em":
                inner = _BOLD if child.type == "strong" else _ITALIC
                parts.append(f"{inner}{_spans(child, inner)}{font}")
            case _:
                parts.append(_spans(child, font))
    return "".join(parts)


def _escaped(text: str) -> str:
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return re.sub(r"(?m)^(?=[.'])", r"\\&", text)


def _dedented(text: str) -> str:
    """A text without the indentation that all its lines have. A backspace, click's mark, is not part of that."""
    lines = text.replace("\b\n", "\b").splitlines()
    indents = [len(line) - len(line.lstrip(" ")) for line in lines if line.strip() and not line.startswith("\b")]
    least = min(indents, default=0)
    return "\n".join(line[least:] if line[:least].isspace() else line for line in lines)


def _text(lines: Sequence[str]) -> str:
    # A paragraph directly below a heading has no request: programs that check pages warn of it.
    return re.sub(r"(?m)^(\.S[HS](?: .*|\n.*))\n\.PP$", r"\1", "\n".join(lines)) + "\n"


def write(texts: dict[str, str], directory: str) -> None:
    """Write files by their names into a directory, which is made if it does not exist."""
    place = Path(directory)
    place.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (place / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(pages(), *sys.argv[1:])
