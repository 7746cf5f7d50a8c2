from __future__ import annotations

import json
import random
import shutil
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_sft.bundle import container, keys, reading
from edge_sft.errors import BundleRefused, UserError

Make = Callable[..., Path]


def layout(contents: dict[str, bytes]) -> bytes:
    """Any contents in the bundle's own zip layout: what somebody who knows the format would forge."""
    members = container.lay_out([(name, len(body), zlib.crc32(body)) for name, body in contents.items()])
    return b"".join(m.header + contents[m.name] for m in members) + container.directory(members)


def contents_of(bundle: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(bundle) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def resigned(contents: dict[str, bytes], key: keys.PrivateKey, **changes: object) -> bytes:
    """Change the manifest and sign it again, as a mistaken or newer maker would."""
    manifest = json.loads(contents["manifest.json"]) | changes
    body = json.dumps(manifest).encode()
    return layout(contents | {"manifest.json": body, "manifest.sig": key.sign(body)})


def refusal(bundle: Path, *trusted: keys.PublicKey) -> str:
    with pytest.raises(BundleRefused) as caught:
        reading.open_verified(bundle, trusted)
    message = str(caught.value)
    assert message.count("\n") == 0
    return message


def test_what_was_written_is_read(make: Make, private_key: keys.PrivateKey, tmp_path: Path) -> None:
    bundle = reading.open_verified(make(), [private_key.public])
    assert bundle.manifest.name == "screws"
    assert bundle.signer.key_id == private_key.public.key_id
    assert bundle.read("policy.json") == b"{}"
    bundle.extract_to(tmp_path / "slot")
    listed = {entry.name for entry in bundle.manifest.files} | {"manifest.json", "manifest.sig"}
    assert {path.name for path in (tmp_path / "slot").iterdir()} == listed
    assert all((tmp_path / "slot" / name).read_bytes() == bundle.read(name) for name in listed)


def test_unzip_and_openssl_agree(make: Make, private_key: keys.PrivateKey, tmp_path: Path) -> None:
    if not shutil.which("openssl") or not shutil.which("unzip"):
        pytest.skip("openssl or unzip is not installed: that third parties can verify is not proved")
    bundle, out = make(), tmp_path / "unzipped"
    subprocess.run(["unzip", "-q", bundle, "-d", out], check=True)
    (tmp_path / "maker.pem").write_bytes(private_key.public.to_pem())
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", tmp_path / "maker.pem", "-rawin"]
    command += ["-in", out / "manifest.json", "-sigfile", out / "manifest.sig"]
    assert "Success" in subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_every_flipped_byte_is_refused(make: Make, private_key: keys.PrivateKey, tmp_path: Path) -> None:
    good = make()
    content = good.read_bytes()
    headers = [p for m in _members(content) for p in range(m.offset, m.content_offset)]
    directory = list(range(_members(content)[-1].end, len(content)))
    sampled = random.Random(0).sample(range(len(content)), min(300, len(content)))
    broken = tmp_path / "broken.edge"
    for position in sorted({*headers, *directory, *sampled}):
        flip = 1 << position % 8
        broken.write_bytes(content[:position] + bytes([content[position] ^ flip]) + content[position + 1 :])
        with pytest.raises(BundleRefused):
            reading.open_verified(broken, [private_key.public])


def _members(content: bytes) -> list[container.Member]:
    offset, size = container.directory_span(content[-22:], len(content), source="test")
    return container.parse_directory(content[offset : offset + size], source="test")


def test_every_truncation_and_appendix_is_refused(make: Make, private_key: keys.PrivateKey, tmp_path: Path) -> None:
    content = make().read_bytes()
    broken = tmp_path / "broken.edge"
    for length in [0, 1, 3, 4, 21, 22, 23, *range(30, len(content), 97), len(content) - 1]:
        broken.write_bytes(content[:length])
        refusal(broken, private_key.public)
    for appended in (b"\0", content, struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 0, 0, 0, 0, 0)):
        broken.write_bytes(content + appended)
        refusal(broken, private_key.public)
        broken.write_bytes(appended + content)
        refusal(broken, private_key.public)


def test_a_wrong_key_is_refused_and_named(make: Make, tmp_path: Path) -> None:
    stranger = keys.load_private(keys.generate(tmp_path / "other").private).public
    message = refusal(make(), stranger)
    assert "signed by none of the trusted keys" in message
    assert stranger.key_id in message
    assert "keys trust" in message


def test_without_any_trusted_key_nothing_is_read(make: Make) -> None:
    with pytest.raises(UserError, match="keys trust"):
        reading.open_verified(make(), [])


def test_an_unknown_schema_is_named_before_the_rest_is_parsed(
    make: Make, private_key: keys.PrivateKey, tmp_path: Path
) -> None:
    newer = tmp_path / "newer.edge"
    newer.write_bytes(resigned(contents_of(make()), private_key, schema_version=2, files="elsewhere"))
    message = refusal(newer, private_key.public)
    assert "schema_version 2" in message
    assert "reads 1" in message


@pytest.mark.parametrize("version", [None, True, "1", 1.0, 0, -1, [1]])
def test_odd_schema_versions_are_refused(
    make: Make, private_key: keys.PrivateKey, tmp_path: Path, version: object
) -> None:
    odd = tmp_path / "odd.edge"
    odd.write_bytes(resigned(contents_of(make()), private_key, schema_version=version))
    assert "schema_version" in refusal(odd, private_key.public)


def test_a_signed_manifest_with_unknown_keys_is_refused(
    make: Make, private_key: keys.PrivateKey, tmp_path: Path
) -> None:
    odd = tmp_path / "odd.edge"
    odd.write_bytes(resigned(contents_of(make()), private_key, surprise=1))
    assert "surprise" in refusal(odd, private_key.public)


def test_extra_and_missing_files_are_named(make: Make, private_key: keys.PrivateKey, tmp_path: Path) -> None:
    contents = contents_of(make())
    changed = tmp_path / "changed.edge"
    changed.write_bytes(layout(contents | {"extra.bin": b"x"}))
    assert "does not list: extra.bin" in refusal(changed, private_key.public)
    changed.write_bytes(layout({name: body for name, body in contents.items() if name != "policy.json"}))
    assert "lacks files that its manifest lists: policy.json" in refusal(changed, private_key.public)
    changed.write_bytes(layout({name: body for name, body in contents.items() if name != "manifest.sig"}))
    assert "is not signed" in refusal(changed, private_key.public)
    changed.write_bytes(layout({name: body for name, body in contents.items() if name != "manifest.json"}))
    assert "manifest.json is missing" in refusal(changed, private_key.public)
    changed.write_bytes(layout(dict(reversed(contents.items()))))
    assert "another order" in refusal(changed, private_key.public)


def test_exchanged_contents_are_refused_even_with_right_checksums(
    make: Make, private_key: keys.PrivateKey, tmp_path: Path
) -> None:
    contents = contents_of(make())
    changed = tmp_path / "changed.edge"
    changed.write_bytes(layout(contents | {"policy.json": b"[]"}))
    assert "changed 'policy.json'" in refusal(changed, private_key.public)
    changed.write_bytes(layout(contents | {"policy.json": b"{ }"}))
    assert "its manifest says 2" in refusal(changed, private_key.public)


@pytest.mark.parametrize(
    "name", ["../up", "/etc/passwd", "a/b", "a\\b", "C:evil", ".hidden", "nul\0.x", "", "ü.json", "a\nb"]
)
def test_names_with_tricks_are_refused(make: Make, private_key: keys.PrivateKey, tmp_path: Path, name: str) -> None:
    odd = tmp_path / "odd.edge"
    with zipfile.ZipFile(odd, "w") as archive:
        for real, body in contents_of(make()).items():
            archive.writestr(zipfile.ZipInfo(real), body)
        info = zipfile.ZipInfo("placeholder")
        info.filename = name
        archive.writestr(info, b"x")
    message = refusal(odd, private_key.public)
    assert "is no bundle" not in message


def test_links_compression_encryption_and_doubles_are_named(
    make: Make, private_key: keys.PrivateKey, tmp_path: Path
) -> None:
    odd = tmp_path / "odd.edge"
    link = zipfile.ZipInfo("link")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(odd, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    assert "the link 'link'" in refusal(odd, private_key.public)
    with zipfile.ZipFile(odd, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", b"\0" * (64 << 20))
    assert odd.stat().st_size < 100_000
    assert "compressed" in refusal(odd, private_key.public)
    good = make().read_bytes()
    encrypted = bytearray(good)
    encrypted[good.rindex(b"PK\x01\x02") + 8] |= 1
    odd.write_bytes(encrypted)
    assert "encrypted" in refusal(odd, private_key.public)
    twice = [("manifest.json", 0, 0), ("MANIFEST.json", 0, 0)]
    members = container.lay_out(twice)
    odd.write_bytes(b"".join(m.header for m in members) + container.directory(members))
    assert "twice" in refusal(odd, private_key.public)


def test_an_oversized_manifest_is_refused_unread(private_key: keys.PrivateKey, tmp_path: Path) -> None:
    big = tmp_path / "big.edge"
    body = b" " * (reading.MAX_MANIFEST_BYTES + 1)
    big.write_bytes(layout({"manifest.json": body, "manifest.sig": private_key.sign(body)}))
    assert "1 MiB is the limit" in refusal(big, private_key.public)


def test_other_files_are_no_bundles(private_key: keys.PrivateKey, tmp_path: Path) -> None:
    other = tmp_path / "other.edge"
    for content in (b"", b"PK", b"\x89PNG\r\n" + b"\0" * 100, b"PK\x03\x04" + b"\0" * 200):
        other.write_bytes(content)
        refusal(other, private_key.public)
    assert "cannot be read" in refusal(tmp_path, private_key.public)
    with pytest.raises(UserError, match="does not exist"):
        reading.open_verified(tmp_path / "missing.edge", [private_key.public])


def test_a_file_exchanged_after_verification_is_noticed(
    make: Make, private_key: keys.PrivateKey, tmp_path: Path
) -> None:
    path = make()
    bundle = reading.open_verified(path, [private_key.public])
    content = path.read_bytes()
    path.write_bytes(content.replace(b"golden", b"molten"))
    with pytest.raises(BundleRefused, match=r"changed 'golden\.npz'"):
        bundle.read("golden.npz")
    with pytest.raises(BundleRefused, match=r"changed 'golden\.npz'"):
        bundle.extract_to(tmp_path / "slot")
    assert not (tmp_path / "slot" / "golden.npz").exists()
    assert not (tmp_path / "slot" / "manifest.json").exists()
    with pytest.raises(BundleRefused, match="holds no file"):
        bundle.read("../keys/default.pem")
