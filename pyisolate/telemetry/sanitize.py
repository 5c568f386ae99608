"""Text that is safe to print and to log: one escaped form, reversible, of bounded length.

Everything that `str.isprintable` does not call printable is escaped: control characters, separators, bidirectional
overrides, surrogates. Bytes that are not UTF-8 arrive as surrogates (`os.fsdecode`) and become `\\xNN`. A backslash
doubles, so that `unescape` is exact. Text that was cut ends in `\\+N`, N being the characters left out.

A guest writes what is read here, and `re` keeps the interpreter's lock: each expression takes time in proportion to its
text. None may try a repetition anew at every character of what it repeats.
"""

from __future__ import annotations

import re

#: PATH_MAX (linux/limits.h): the longest name that one system call takes.
TEXT_LIMIT = 4096

#: What stands before the @ of a URL (RFC 3986, 3.2.1), also where a path's normalisation made one slash of two; a host
#: that holds a colon is shown in brackets, so `user:password@host` is, too.
_AUTHORITY = r"((?<![a-z0-9+.-])[a-z][a-z0-9+.-]*:/{1,2}|^\[)"
_USER_INFORMATION = re.compile(rf"{_AUTHORITY}[^/]*@", re.IGNORECASE)
#: Where a URL stands among words: it holds no blank (RFC 3986, appendix C), and an @ of a later word is not its own.
_IN_TEXT = re.compile(rf"{_AUTHORITY}[^/\s]*@", re.IGNORECASE | re.MULTILINE)
#: A frame of a traceback, in an exception group, too.
_FRAME = re.compile(r"[ |+-]*File \"[^\"]*\", line [0-9]+(?:, in [^\s]*)?\Z")
#: What begins the traceback of an exception group, and what each of its lines begins with (CPython 3.11 to 3.14,
#: `traceback._ExceptionPrintContext`).
_GROUP = re.compile(r" *\+ Exception Group Traceback .*")
_MARGIN = re.compile(r" +(?:[|+] |\+-)")
_ESCAPE = re.compile(r"\\(?:\\|x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8})|\+[0-9]+$)")


def escape(text: str, limit: int = TEXT_LIMIT) -> str:
    """Return `text` safe to print, at most `limit` characters plus the mark of what was cut."""
    if len(text) <= limit and text.isprintable() and "\\" not in text:
        return text
    parts: list[str] = []
    used = 0
    for index, char in enumerate(text):
        part = _escape_char(char)
        used += len(part)
        if used > limit:
            return "".join(parts) + f"\\+{len(text) - index}"
        parts.append(part)
    return "".join(parts)


def show_target(target: str) -> str:
    """Return the target of an event safe to print; `***` stands for the user information of a URL (a password)."""
    return escape(hide_user_information(target))


def hide_user_information(text: str) -> str:
    """Return `text` with `***` in place of user name and password before an @ in a URL or a bracketed host."""
    return _USER_INFORMATION.sub(r"\1***@", text) if "@" in text else text


def hide_in_text(text: str) -> str:
    """Return free text of any lines with `***` in place of the user information of each URL in it."""
    return _IN_TEXT.sub(r"\1***@", text) if "@" in text else text


def without_source(traceback: str) -> str:
    """Return a traceback's frames and what was raised, without the lines of source between them."""
    kept = []
    in_group = False
    for line in traceback.split("\n"):
        in_group = line[:1] in (" ", "\t") and (in_group or _GROUP.fullmatch(line) is not None)
        margin = _MARGIN.match(line) if in_group else None
        said = line if margin is None else line[margin.end() :]
        if said[:1] not in (" ", "\t") or _FRAME.match(line):
            kept.append(line)
    return "\n".join(kept)


def unescape(text: str) -> str:
    """Return the text that `escape` was given (without what it cut). Unknown escapes stay as they are."""
    return _ESCAPE.sub(_unescape_match, text) if "\\" in text else text


def escape_bytes(data: bytes, limit: int = TEXT_LIMIT) -> str:
    """Return bytes (a path, a name) as safe text; UTF-8 is shown, anything else is `\\xNN`."""
    return escape(data[: 4 * limit].decode("utf-8", "surrogateescape"), limit)


def unescape_bytes(text: str) -> bytes:
    """Return the bytes that `escape_bytes` was given (without what it cut)."""
    return unescape(text).encode("utf-8", "surrogateescape")


def is_plain(text: str) -> bool:
    """Tell whether `text` can be shown and stored as it is (printable, no surrogates)."""
    return text.isprintable()


def _escape_char(char: str) -> str:
    if char == "\\":
        return "\\\\"
    if char.isprintable():
        return char
    code = ord(char)
    if code < 0x80:
        return f"\\x{code:02x}"
    if 0xDC80 <= code <= 0xDCFF:  # PEP 383: an undecodable byte
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _unescape_match(match: re.Match[str]) -> str:
    byte, short, long = match.groups()
    if byte is not None:
        code = int(byte, 16)
        return chr(code if code < 0x80 else 0xDC00 + code)
    if short is not None:
        return chr(int(short, 16))
    if long is not None:
        code = int(long, 16)
        return chr(code) if code <= 0x10FFFF else match.group()
    return "\\" if match.group() == "\\\\" else ""
