"""Text in Markdown: shown as it is, whatever it contains; names of files and ids come from other people."""

import re
from typing import Any

from histocli.text import escape_control_characters

_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "~": "&#126;"}
_SPECIAL = re.compile(r"[\\`*\[\]|]|(?<![^\W_])_|_(?![^\W_])|^[#+-](?=\s)")


class Markdown(str):
    """Text that is Markdown already."""

    __slots__ = ()


def escape_markdown(value: Any) -> Any:
    """Return text escaped for Markdown, also in a cell of a table, and for HTML; other values are returned as they are.

    Characters that cannot be printed, such as line breaks, are shown as escape sequences.
    """
    if not isinstance(value, str) or isinstance(value, Markdown):
        return value
    text = re.sub("[&<>~]", lambda match: _HTML[match[0]], escape_control_characters(value))
    return _SPECIAL.sub(r"\\\g<0>", text)


def make_code_span(value: object) -> Markdown:
    """Return text as a code span of Markdown, in which HTML has no meaning.

    The span begins and ends with more backticks than the text has in a row.
    """
    text = escape_control_characters(str(value)).replace("|", "\\|")  # a bar would end the cell of a table
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence, pad = "`" * (longest + 1), " " if text.startswith("`") or text.endswith("`") else ""
    return Markdown(f"{fence}{pad}{text}{pad}{fence}")
