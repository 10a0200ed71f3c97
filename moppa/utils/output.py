"""Text on standard output and standard error, whatever the locale."""

import io
import sys


def allow_any_text() -> None:
    """Lets both streams replace the characters that their encoding lacks, in which Python would otherwise fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            is_unicode = stream.encoding.lower().startswith("utf")  # which lacks only bytes of names that are not UTF-8
            stream.reconfigure(errors="backslashreplace" if is_unicode else "replace")
