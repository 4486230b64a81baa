"""The exception that a program gets, and its fields."""

import concurrent.futures
import os

import openai
import pytest
from conftest import KEY, outcome, settings, simulate

CLASSES = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    409: openai.ConflictError,
    422: openai.UnprocessableEntityError,
    429: openai.RateLimitError,
    500: openai.InternalServerError,
    503: openai.InternalServerError,
}


def refused(client, code, **arguments):
    """The error that `create` raises, after a check of the fields that every error of Tidegate has."""
    with pytest.raises(openai.APIStatusError) as caught:
        client.responses.create(**{"model": "smart", "input": "Hello", **arguments})
    error = caught.value
    assert error.code == code
    assert set(error.body) == {"message", "type", "param", "code"} and error.message
    headers = error.response.headers
    assert error.request_id == headers["x-request-id"] and headers["x-tidegate-request-id"]
    assert outcome(headers["x-tidegate-request-id"])["problem"] == code
    return error


def ours(error, kind, status):
    assert type(error) is kind and error.status_code == status


def test_key(client):
    for wrong in (KEY[:-1], "sk-other"):
        error = refused(client.with_options(api_key=wrong), "invalid_api_key")
        ours(error, openai.AuthenticationError, 401)
        assert wrong not in error.message
        assert error.response.headers["x-should-retry"] == "false"


def test_model(client):
    unknown = refused(client, "model_not_found", model="nothing-like-it")
    ours(unknown, openai.NotFoundError, 404)
    small = client.with_options(api_key=os.environ["TIDEGATE_SMALL_KEY"])
    forbidden = refused(small, "model_not_found", model="team/gpt-4o:fast")
    assert forbidden.message == unknown.message.replace("nothing-like-it", "team/gpt-4o:fast")
    assert small.responses.create(model="smart", input="Hello").output_text


def test_path(client):
    with pytest.raises(openai.NotFoundError) as caught:
        # No key may list everything in an account.
        client.files.list()
    assert caught.value.code == "unknown_url"


@pytest.mark.parametrize(("body", "code"), [({"model": 7}, "invalid_model"), ({"Model": "smart"}, "repeated_field")])
def test_body(client, body, code):
    ours(refused(client, code, extra_body=body), openai.BadRequestError, 400)


def test_too_large(client):
    error = refused(client, "request_too_large", input="x" * (2 << 20))
    ours(error, openai.APIStatusError, 413)


def test_a_refused_credential_is_no_error_of_the_client(client):
    error = refused(client, "upstream_auth", model="refusing/gpt-5-mini")
    ours(error, openai.InternalServerError, 502)
    # The provider's own text shows the ends of the key that it got.
    assert os.environ["REFUSED_KEY"][-4:] not in error.response.text
    for directive in ("error=unauthorized", "error=402", "error=balance"):
        error = refused(client, "upstream_auth", model="acedata/gpt-4.1", **simulate(directive))
        ours(error, openai.InternalServerError, 502)


def test_an_unreachable_upstream(client):
    ours(refused(client, "upstream_unreachable", model="away/gpt-4o"), openai.InternalServerError, 502)


def test_upstream_leaves_without_an_answer(client):
    error = refused(client, "upstream_disconnected", **simulate("cut-head"))
    ours(error, openai.InternalServerError, 502)


@pytest.mark.parametrize("directive", ["redirect", "html=200"])
def test_an_answer_that_is_not_from_an_api(client, model, directive):
    error = refused(client, "upstream_bad_answer", model=model, **simulate(directive))
    ours(error, openai.InternalServerError, 502)


@pytest.mark.parametrize("status", [400, 404, 409, 422, 429, 500, 503])
def test_errors_of_the_provider(client, model, status):
    with pytest.raises(CLASSES[status]) as caught:
        client.responses.create(model=model, **simulate(f"error={status} retry-after=7"))
    error = caught.value
    assert error.status_code == status and error.message
    assert error.response.headers["retry-after"] == "7"
    assert error.request_id
    entry = outcome(error.response.headers["x-tidegate-request-id"])
    assert (entry["end"], entry["status"], entry.get("problem")) == ("upstream_error", status, None)


@pytest.mark.parametrize("name", ["policy", "region"])
def test_a_provider_error_about_the_request(client, name):
    with pytest.raises(openai.PermissionDeniedError):
        client.responses.create(model="smart", **simulate(f"error={name}"))


def test_the_sdks_own_retries(client):
    """Each retry is a request of its own: the gateway hides none and adds none."""
    with pytest.raises(openai.RateLimitError) as caught:
        client.with_options(max_retries=1).responses.create(model="smart", **simulate("error=429 retry-after=1"))
    assert caught.value.response.request.headers["x-stainless-retry-count"] == "1"


def test_a_plain_answer_that_breaks(client, model):
    for directive in ("cut", "short-length"):
        with pytest.raises(openai.APIConnectionError):
            client.responses.create(model=model, **simulate(directive))


def test_request_ids(client, model):
    raw = client.responses.with_raw_response.create(model=model, input="Hello")
    answer = raw.parse()
    # The provider's id, which its support needs; and Tidegate's own, which is in its log.
    assert answer._request_id == raw.headers["x-request-id"]
    assert answer._request_id != raw.headers["x-tidegate-request-id"]
    assert outcome(raw.headers["x-tidegate-request-id"])["upstream_request_id"] == answer._request_id


def test_headers_that_never_reach_the_client(client, model):
    headers = client.responses.with_raw_response.create(model=model, input="Hello").headers
    assert not {"set-cookie", "openai-model", "openai-organization", "location"} & set(headers)


def test_a_batch_beyond_the_limit_succeeds_at_its_first_retry():
    """LangChain's `ChatOpenAI.batch` sends all requests at once. Each refused request gets its own Retry-After."""
    batch = 34  # Four more than the 30 requests a minute of this key.
    key = os.environ["TIDEGATE_BATCH_KEY"]
    with openai.OpenAI(**settings(api_key=key, max_retries=1, timeout=60)) as client:

        def ask(number):
            return client.chat.completions.create(model="smart", messages=[{"role": "user", "content": str(number)}])

        with concurrent.futures.ThreadPoolExecutor(batch) as threads:
            answers = list(threads.map(ask, range(batch)))
    assert all(answer.choices[0].message.content for answer in answers)


def test_the_message_of_a_wrong_key_begins_as_openai_words_it(client):
    """LiteLLM's client raises AuthenticationError by these words, and otherwise BadRequestError."""
    with pytest.raises(openai.AuthenticationError) as caught:
        client.with_options(api_key="sk-wrong-key-of-nobody").models.list()
    assert caught.value.body["message"].startswith("Incorrect API key provided")
