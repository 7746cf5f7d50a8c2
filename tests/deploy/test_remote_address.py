from __future__ import annotations

import pytest

from edge_sft.deploy.remote.address import Address, parse
from edge_sft.errors import UserError


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("ssh://line1", Address("line1")),
        ("ssh://pi@line1", Address("line1", "pi")),
        ("ssh://pi@Line1.plant:2222/", Address("Line1.plant", "pi", 2222)),
        ("ssh://root@10.0.0.7:22", Address("10.0.0.7", "root", 22)),
        ("ssh://pi@[fe80::1]:2222", Address("fe80::1", "pi", 2222)),
        ("ssh://pi@[fe80::1%25eth0]", None),
        ("ssh://plant%5Cpi@line1", None),
    ],
)
def test_addresses(written: str, expected: Address | None) -> None:
    if expected is None:
        with pytest.raises(UserError, match="is no address"):
            parse(written)
    else:
        assert parse(written) == expected


@pytest.mark.parametrize(
    "written",
    ["ssh://", "ssh:line1", "ssh://pi:secret@line1", "ssh://line1/srv", "ssh://-oProxyCommand=x", "ssh://-l@line1",
     "ssh://line1:port", "ssh://a b@line1", "ssh://line1;rm", "ssh://$(x)@line1", "http://line1"],
)  # fmt: skip
def test_what_is_not_understood_is_refused(written: str) -> None:
    with pytest.raises(UserError, match="is no address"):
        parse(written)


def test_ssh_gets_the_host_behind_a_double_dash() -> None:
    assert Address("line1", "pi", 2222).arguments == ["-l", "pi", "-p", "2222", "--", "line1"]
    assert str(Address("fe80::1", "pi", 22)) == "pi@[fe80::1]:22"
