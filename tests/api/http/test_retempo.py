"""Health, as a first sign of life."""

from harness import Running


async def test_health_needs_no_key(daemon: Running) -> None:
    """GET /health answers without a key."""
    reply = await daemon.http.get("/health", headers={"Authorization": ""})
    assert reply.json() == {"ok": True, "service": "tallyd", "apiRoot": "/api/v1"}
    sent = await daemon.dodo.usage_events.ingest(
        events=[{"event_id": "a", "customer_id": "acme", "event_name": "api_call"}])
    print(sent)
