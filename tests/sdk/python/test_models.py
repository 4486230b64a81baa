"""The list of models."""

import os

import openai
import pytest


def test_list(client):
    models = client.models.list().data
    # Wildcards, and models that only `upstream/model` reaches, are not listed.
    assert [model.id for model in models] == ["smart", "team/gpt-4o:fast"]
    assert {model.object for model in models} == {"model"}


def test_one(client):
    assert client.models.retrieve("team/gpt-4o:fast").id == "team/gpt-4o:fast"
    assert client.responses.create(model="team/gpt-4o:fast", input="Hello").output_text


def test_what_this_key_may_use(client):
    client = client.with_options(api_key=os.environ["TIDEGATE_SMALL_KEY"])
    assert [model.id for model in client.models.list()] == ["smart"]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("team/gpt-4o:fast")


def test_none(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("nothing-like-it")
    assert caught.value.code == "model_not_found"
