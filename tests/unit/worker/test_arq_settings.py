"""REDIS_URL as `arq --check` reads it."""

from __future__ import annotations

import pytest


def test_arq_is_told_of_sentinels_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://a:1/2")
    from worker.arq_settings import redis_settings

    known = redis_settings("rediss+sentinel://u:p@a:1,b/jobs/3?ssl_ca_certs=/ca.pem")
    assert (known.host, known.sentinel, known.sentinel_master) == ([("a", 1), ("b", 26379)], True, "jobs")
    assert (known.username, known.password, known.database) == ("u", "p", 3)
    assert (known.ssl, known.ssl_ca_certs) == (True, "/ca.pem")
    assert (redis_settings("redis://a:1/2").host, redis_settings("redis://a:1/2").sentinel) == ("a", False)
