from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from edge_sft import strict_toml
from edge_sft.errors import UserError
from edge_sft.runtime import config as configs
from edge_sft.runtime.config import AgentConfig
from edge_sft.runtime.draft import draft_config


def problems(text: str) -> str:
    with pytest.raises(UserError) as caught:
        strict_toml.loads(text, AgentConfig, source="agent.toml")
    return str(caught.value)


def draft(**changes: Any) -> str:
    fields = {"broker": "10.0.0.5:8883", "source": "folder:pictures", "pipeline": "main", "device": "Linie 3 (Süd)"}
    return draft_config(**{**fields, **changes})


@pytest.mark.parametrize("source", ["folder:C:\\bilder\\in", "files:a", "video:b.avi", "camera:0", "camera:rtsp://c/s"])
def test_the_draft_is_valid_for_every_source(source: str) -> None:
    config = strict_toml.loads(draft(source=source), AgentConfig, source="agent.toml")
    assert (config.mqtt.host, config.mqtt.port) == ("10.0.0.5", 8883)
    assert config.agent.device == "Linie-3--S-d"
    assert config.pipeline[0].source.kind == source.partition(":")[0]


def test_every_commented_key_of_the_draft_is_valid_and_shows_its_default() -> None:
    lines = []
    for line in draft().splitlines():
        bare = line.removeprefix("# ")
        key = bare.partition(" = ")[0]
        lines.append(bare if line.startswith("# ") and key.replace("_", "").isalnum() and key.islower() else line)
    text = "\n".join(line for line in lines if not line.startswith('trigger = { kind = "mqtt"'))
    config = strict_toml.loads(text, AgentConfig, source="agent.toml")
    default = strict_toml.loads(draft(), AgentConfig, source="agent.toml")
    named = {"username", "password_file", "ca_file", "cert_file", "key_file", "root"}  # examples, not defaults
    assert config.mqtt.model_dump(exclude=named) == default.mqtt.model_dump(exclude=named)
    assert config.journal == default.journal
    assert config.agent.model_dump(exclude=named) == default.agent.model_dump(exclude=named)
    assert config.pipeline[0].queue.size == default.pipeline[0].queue.size


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"broker": "host:x"}, "--broker"), ({"source": "pictures"}, "--source"), ({"source": "ftp:x"}, "--source")],
)
def test_draft_refuses_what_it_does_not_understand(changes: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        draft(**changes)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(
        draft() + '\n[[pipeline]]\nname = "b"\nsource = { kind = "files", paths = ["x.png", "/abs/y.png"] }\n'
    )
    config = configs.load(path)
    assert config.pipeline[0].source.path == tmp_path / "pictures"
    assert config.pipeline[1].source.paths == (tmp_path / "x.png", Path("/abs/y.png"))
    assert config.pipeline[0].queue_policy == "block"


def test_all_problems_come_together_with_their_lines() -> None:
    text = """
[agent]
site = "a/b"
[mqtt]
pasword = "secret"
username = "u"
key_file = "k"
[[pipeline]]
name = "x y"
source = { kind = "folder", path = "p", after = "burn" }
[[pipeline]]
source = { kind = "floppy" }
"""
    said = problems(text)
    for words in ("line 3: 'agent.site'", "line 5: unknown key 'mqtt.pasword'", "line 9: 'pipeline.0.name'", "after"):
        assert words in said
    assert "floppy" in said
    assert "Tuple should have" not in said
    assert "did you mean 'path'?" in problems('[[pipeline]]\nsource = { kind = "folder", pth = "x" }')
    assert "add one" in problems("pipeline = []")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "'pipeline' is missing"),
        ('[[pipeline]]\nsource={kind="camera",device="rtsp://u:p@h/s"}', "credentials_file"),
        ('[[pipeline]]\nsource={kind="camera",device=0}\ntrigger={kind="filename",pattern="(?P<part_id>x)"}', "files"),
        ('[[pipeline]]\nsource={kind="files",path="a"}\ntrigger={kind="filename",pattern="x("}', "regular expression"),
        ('[[pipeline]]\nsource={kind="files",path="a"}\ntrigger={kind="filename",pattern="x"}', "named part_id"),
        ('[[pipeline]]\nsource={kind="files"}', "either path"),
        ('[[pipeline]]\nsource={kind="files",path="a"}\nthreads=1\nworkers=2', "at least as many threads"),
        ('[[pipeline]]\nsource={kind="files",path="a"}\n[[pipeline]]\nsource={kind="files",path="b"}', "twice: main"),
        (
            '[[pipeline]]\nsource={kind="folder",path="a"}\n[[pipeline]]\nname="b"\nsource={kind="folder",path="a"}',
            "same folder",
        ),
        ('[mqtt]\npassword_file="p"\n[[pipeline]]\nsource={kind="files",path="a"}', "needs username"),
        ('[mqtt]\ncert_file="p"\n[[pipeline]]\nsource={kind="files",path="a"}', "go together"),
        ('[mqtt]\ntopic_prefix="a/#"\n[[pipeline]]\nsource={kind="files",path="a"}', "topic_prefix"),
    ],
)
def test_impossible_combinations_are_refused_in_words(text: str, words: str) -> None:
    assert words in problems(text)


def test_cameras_drop_the_oldest_unless_told_otherwise() -> None:
    text = '[[pipeline]]\nsource={kind="camera",device=0}\n[[pipeline]]\nname="b"\nsource={kind="camera",device=1}\n'
    config = strict_toml.loads(text + 'queue={policy="block"}', AgentConfig, source="agent.toml")
    assert [one.queue_policy for one in config.pipeline] == ["latest", "block"]


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[3] / "examples").glob("agent*.toml")), ids=lambda p: p.stem
)
def test_the_examples_are_valid(path: Path) -> None:
    assert configs.load(path).pipeline


def test_init_writes_once_and_says_what_to_type(tmp_path: Path) -> None:
    from edge_sft.cli.agent import init

    out = tmp_path / "agent.toml"
    init(out, broker="10.0.0.5", source="camera:0", pipeline="top", force=False)
    assert configs.load(out).pipeline[0].name == "top"
    with pytest.raises(UserError, match="--force"):
        init(out, broker="10.0.0.5", source="camera:0", pipeline="top", force=False)
    init(out, broker="10.0.0.6", source="camera:0", pipeline="top", force=True)
    assert configs.load(out).mqtt.host == "10.0.0.6"


@pytest.mark.parametrize("source", ["mqtt:plant/+/sensors", "replay:runs"])
def test_a_draft_for_sensors_works_with_every_line_of_it_in_use(source: str, tmp_path: Path) -> None:

    text = draft_config(broker="plc:1884", source=source, pipeline="pumps", device="ipc")
    shown = re.sub(r"^# (\w+ = .*)$", r"\1", text, flags=re.MULTILINE)
    shown = "\n".join(
        line for line in shown.splitlines() if not re.match(r"(root|password|ca_|cert|key_|channel|asset )", line)
    )
    for name, written in (("draft", text), ("all", shown)):
        path = tmp_path / f"{name}.toml"
        path.write_text(written)
        (one,) = configs.load(path).pipeline
        assert (one.name, one.of_rows) == ("pumps", True)
    assert one.assets is not None
    assert one.assets.expected == ("pump-1",)
    assert one.deadline_ms == 5000.0
