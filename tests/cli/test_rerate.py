"""`tallyd rerate`."""

from pathlib import Path

import msgspec
import pytest

from cli.commands import hosted

EVENT = {
    "eventName": "chat",
    "customerReferenceId": "umbrella",
    "costInput": {"model": "umbra-70b", "inputTokens": 1_000_000, "outputTokens": 0},
}
PRICE = """
[[model_prices]]
model = "umbra-70b"
input_per_million = "3.75"
output_per_million = "15.00"
"""


@pytest.mark.process
def test_an_event_is_priced_once_a_price_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unpriced event stays so until the catalog has its price, and is then priced once."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "events.jsonl").write_bytes(msgspec.json.encode(EVENT))
    assert "1 of the recorded lack a price" in hosted("ingest", "events.jsonl", "--data-dir", "data").stdout
    assert hosted("rerate").stdout == "1 unpriced: 0 priced now, 1 still lack a price\n"
    (tmp_path / "catalog.toml").write_text(PRICE)
    assert hosted("rerate", "--catalog", "catalog.toml", "--json").stdout == '{"unpriced":1,"priced":1}\n'
    assert hosted("rerate", "--catalog", "catalog.toml").stdout == "no event lacks a price\n"
