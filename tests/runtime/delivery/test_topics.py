import pytest

from edge_sft.errors import UserError
from edge_sft.runtime.topics import Topics, every_device, everything, parse


def test_topics_follow_the_template():
    topics = Topics("plant a", "line1", "press3")
    assert topics.prediction("cam") == "edge-sft/v1/plant a/line1/press3/cam/prediction"
    assert topics.state("cam") == "edge-sft/v1/plant a/line1/press3/cam/state"
    assert topics.ack == "edge-sft/v1/plant a/line1/press3/ack"
    assert topics.device_state == "edge-sft/v1/plant a/line1/press3/state"
    assert Topics("s", "l", "d", prefix="umh/v1/acme").event("c") == "umh/v1/acme/s/l/d/c/event"


@pytest.mark.parametrize("name", ["", "a/b", "a+", "#", "nul\0", "tab\t", "x" * 300])
def test_names_that_mqtt_cannot_carry_are_refused(name):
    with pytest.raises(UserError, match="cannot be a level"):
        Topics(name, "l", "d")


@pytest.mark.parametrize("prefix", ["", "a//b", "/a", "a/#", "$SYS/a"])
def test_prefixes_that_mqtt_cannot_carry_are_refused(prefix):
    with pytest.raises(UserError):
        Topics("s", "l", "d", prefix=prefix)


def test_a_pipeline_name_never_breaks_a_topic():
    assert Topics("s", "l", "d").prediction("a/b#") == "edge-sft/v1/s/l/d/a%2Fb%23/prediction"


def test_topics_are_read_back():
    topics = Topics("s", "l", "d")
    place = parse(topics.prediction("cam"))
    assert place is not None
    assert (place.device, place.pipeline, place.kind, place.root) == ("d", "cam", "prediction", topics.root)
    device = parse(topics.ack)
    assert device is not None
    assert (device.pipeline, device.kind) == (None, "ack")
    assert parse("other/v1/s/l/d/cam/prediction") is None
    assert parse("edge-sft/v1/s/l/d/cam/nonsense") is None
    assert everything("prediction") == "edge-sft/v1/+/+/+/+/prediction"
    assert every_device("state") == "edge-sft/v1/+/+/+/state"
