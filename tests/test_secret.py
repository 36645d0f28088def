"""Secrets: what a run writes down shows none, and a resumed one still has them."""

from __future__ import annotations

import pytest

from src import secret

URI = "https://me:CAN@ARY@host:80/x"


@pytest.mark.parametrize("key", ["token", "hf_token", "api_key", "logger.wandb.apiKey", "logger.x.password"])
def test_what_is_called_a_secret_is_masked(key):
    assert secret.masked({"a": {key: "CANARY", "b": ["x"]}}) == {"a": {key: "***", "b": ["x"]}}
    assert secret.words([f"{key}=CANARY", "seed=1"]) == [f"{key}=***", "seed=1"]


def test_the_login_of_a_url_is_masked_and_comes_back_from_the_words_and_the_environment(monkeypatch):
    kept = secret.masked({"mlflow": {"tracking_uri": URI}, "root": "/a//b@c", "plain": "https://host/a:b@c"})
    assert kept == {
        "mlflow": {"tracking_uri": "https://***@host:80/x"},
        "root": "/a//b@c",
        "plain": "https://host/a:b@c",
    }
    assert secret.words([f"logger.mlflow.tracking_uri={URI}"]) == ["logger.mlflow.tracking_uri=https://***@host:80/x"]
    assert secret.restored(kept, []) == kept
    again = secret.restored(kept, ["seed=1", f"logger.mlflow.tracking_uri='{URI}'"])
    assert again["mlflow"]["tracking_uri"] == URI, "typed again"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", URI)
    assert secret.restored([kept], [])[0]["mlflow"]["tracking_uri"] == URI


def test_the_names_of_the_user_are_no_secrets():
    config = {"task": {"heads": {"token": "regression"}}, "model": {"candidates": {"secret": "a"}, "tokenizer": "b"}}
    assert secret.masked(config) == config
    assert secret.words(["task.heads={token: regression}"]) == ["task.heads={token: regression}"]


@pytest.mark.slow
def test_a_run_writes_none_down(zygote, small, tmp_path):
    run, word = tmp_path / "run", f"name={URI}"
    assert zygote.run(*small, word, f"run_dir={run}", "stages=[probe]", "recipe=auto") == 0, zygote.screen
    assert zygote.run(f"resume={run}", word) == 0, zygote.screen
    texts = [file.read_bytes() for file in run.rglob("*") if file.is_file()]
    assert any(b"://***@" in text for text in texts) and not any(b"ARY" in text for text in texts)
