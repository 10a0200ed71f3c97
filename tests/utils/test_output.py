"""Printed text, whatever the locale."""

import io
import sys

import pytest

from moppa.utils.output import allow_any_text

PRINTED = {"ascii": b"90.1 ? 0.2 ?", "latin-1": b"90.1 \xb1 0.2 ?", "utf-8": b"90.1 \xc2\xb1 0.2 \\udce9"}


@pytest.mark.parametrize(("encoding", "printed"), PRINTED.items())
def test_what_an_encoding_lacks_is_replaced(encoding, printed, monkeypatch):
    file = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(file, encoding=encoding))
    allow_any_text()
    print("90.1 ± 0.2 \udce9", end="", flush=True)  # as a name that is not UTF-8
    assert file.getvalue() == printed
