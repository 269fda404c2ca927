"""What others hold of a definition: features, services, keys."""

from __future__ import annotations

import pytest

from lookback.definition import OnDemand, load, loads
from lookback.errors import UsageError
from tests.definition.samples import GOOD, ROOT


def test_features_and_services_by_name() -> None:
    definition = loads(GOOD)
    assert definition.service("fraud") == ["card_activity.tx_count_1m", "ratio"]
    with pytest.raises(UsageError, match="there is no service `fraudd`; did you mean `fraud`"):
        definition.service("fraudd")
    with pytest.raises(UsageError, match="the definition has fraud"):
        definition.service("x")
    found = definition.feature("card_activity.tx_count_1m")
    assert not isinstance(found, OnDemand) and found[0].features[found[1]].name == "tx_count_1m"
    assert isinstance(definition.feature("ratio"), OnDemand)
    with pytest.raises(UsageError, match=r"did you mean `card_activity\.tx_count_1h`"):
        definition.feature("card_activity.tx_count_2h")


def test_key_texts() -> None:
    view = loads(GOOD).views["card_activity"]
    assert view.key_text({"card": "a|b", "merchant": 5}) == "a|b"  # one part stands as it is
    assert view.key_parts("a|b") == {"card": "a|b"}
    with pytest.raises(UsageError, match="needs the entity key card=…; card is missing"):
        view.key_text({"crad": "c"})
    with pytest.raises(UsageError, match="`card` must be string, not 5"):
        view.key_text({"card": 5})


def test_the_card_fraud_set() -> None:
    definition = load(ROOT / "features" / "fraud.yaml")
    assert list(definition.views) == ["card_activity", "merchant_activity", "card_merchant"]
    assert definition.views["card_merchant"].key_names == ("card", "merchant")
    assert 28 <= len(definition.all_features()) <= 40
    assert set(definition.service("fraud_v1")) <= set(definition.all_features())
    assert list(definition.streams["transactions"].schema().names) == [
        "tx_id",
        "card",
        "merchant",
        "device",
        "country",
        "amount",
        "declined",
    ]


def test_notes_are_kept() -> None:
    definition = load(ROOT / "examples" / "definitions" / "every_aggregate.yaml")
    assert (definition.notes.owner, definition.notes.tags) == ("docs", ("example",))
    assert definition.streams["payments"].fields["shop"].from_name == "SHOP NAME"
    assert definition.entities["card"].notes.description == "The card's token."
    night = next(spec for spec in definition.views["card_all"].specs if spec.name == "night_rows")
    assert (night.notes.owner, night.notes.tags) == ("night-desk", ("time",))
    assert definition.service_notes["everything"].description == "For the docs."
    assert definition.on_demand["log_risk"].notes.description
