"""Show a query without the values in it: they may be anybody's personal data."""

from __future__ import annotations

import re

_TOKEN = re.compile(
    r"""
      (?P<comment> --[^\n]* | /\*(?:.*?\*/|.*\Z) )
    | (?P<dollar> \$(?P<tag>(?:[^\W\d]\w*)?)\$ (?:.*?\$(?P=tag)\$|.*\Z) )
    | (?P<escape> \b[eE]'(?:[^'\\]|\\.|'')*(?:'|\\?\Z) )
    | (?P<string> (?:\b(?:[uU]&|[bBxXnN]))?'(?:[^']|'')*(?:'|\Z) )
    | (?P<identifier> "(?:[^"]|"")*(?:"|\Z) )
    | (?P<parameter> \$\d+ )
    | (?P<word> [^\W\d][\w$]* )
    | (?P<number> (?:\d|\.\d)[\w.]*(?:(?<=[eE])[+-]\d+)? )
    """,
    re.VERBOSE | re.DOTALL,
)


def mask_literals(query: str, *, length: int = 200) -> str:
    """The query with every literal as ``?``, without comments, on one line of at most ``length`` characters.

    The server cuts long queries, so a literal or comment may end with the text.
    """
    parts: list[str] = []
    position = 0
    while match := _TOKEN.search(query, position):
        parts.append(query[position : match.start()])
        position = match.end()
        kind = match.lastgroup if match.lastgroup != "tag" else "dollar"
        if kind == "comment":
            parts.append(" ")
            if match[0].startswith("/*") and "/*" in match[0][2:]:
                position = len(query)  # nested: where it ends is not worth the risk
        elif kind == "string" and "\\'" in match[0]:
            parts.append("?")  # with standard_conforming_strings off the literal goes on: show nothing more
            position = len(query)
        elif kind in {"identifier", "parameter", "word"}:
            parts.append(match[0])
        else:
            parts.append("?")
    parts.append(query[position:])
    line = " ".join("".join(parts).split())
    return line if len(line) <= length else line[: length - 1] + "…"
