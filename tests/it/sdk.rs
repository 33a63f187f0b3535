//! The OpenAI Python SDK as a client. `make test` installs it and says where its Python is.

use std::env;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::support::certificates::Authority;
use crate::support::fake_endpoint::{json_answer, polite};
use crate::support::{FakeEndpoint, TestApp, soon};

/// Sends two streams at a time to one slot: first both are served, then one of them waits too long.
const WAITING_SCRIPT: &str = r#"
import sys, openai
from concurrent.futures import ThreadPoolExecutor

client = openai.OpenAI(base_url=sys.argv[1], api_key="anything", max_retries=0)

def ask(_):
    try:
        stream = client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "Hello"}], stream=True,
            extra_headers={"x-leaseway-queue-updates": "sse"},
        )
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    except openai.APIError as error:
        return error.code

with ThreadPoolExecutor(2) as pool:
    answers = list(pool.map(ask, range(2)))
    assert answers == ["Hello", "Hello"], answers
    answers = sorted(pool.map(ask, range(2)))
    assert answers == ["Hello", "queue_timeout"], answers
"#;

const SCRIPT: &str = r#"
import sys, openai

base_url = sys.argv[1]
client = openai.OpenAI(base_url=base_url, api_key="anything", max_retries=0)

assert [model.id for model in client.models.list()] == ["m"]
assert client.models.retrieve("m").id == "m"

messages = [{"role": "user", "content": "Hello"}]
whole = client.chat.completions.create(model="m", messages=messages)
assert whole.choices[0].message.content == "Hello", whole
assert whole.usage.completion_tokens == 7, whole

chunks = list(client.chat.completions.create(model="m", messages=messages, stream=True))
text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
assert text == "Hello", text
assert all(chunk.usage is None for chunk in chunks), "usage that was not asked for"

options = {"include_usage": True}
chunks = list(client.chat.completions.create(model="m", messages=messages, stream=True, stream_options=options))
assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 5, chunks[-1]

for round in range(20):
    stream = client.chat.completions.create(model="m", messages=messages, stream=True)
    next(iter(stream))
    stream.close()

raw = client.chat.completions.with_raw_response.create(model="m", messages=messages)
assert raw.headers["x-leaseway-endpoint"] == "gpu-1", raw.headers
assert raw.parse()._request_id, "no request id"

try:
    client.chat.completions.create(model="nobody-has-it", messages=messages)
    raise AssertionError("no error")
except openai.NotFoundError as error:
    assert error.code == "model_not_found" and error.type == "invalid_request_error", error
    assert error.param == "model" and error.request_id, error

try:
    client.chat.completions.create(model="m", messages="invalid")
    raise AssertionError("no error")
except openai.BadRequestError as error:
    assert error.body["message"] == "of the endpoint", error.body

print("the SDK is content")
"#;

/// Runs a Python script, which trusts `authority`, and checks that it succeeds.
async fn run(script: &str, app: &TestApp, authority: Option<&Authority>) {
    let python = match env::var("LEASEWAY_TEST_PYTHON") {
        Ok(python) => python,
        Err(_) => panic!("LEASEWAY_TEST_PYTHON is not set; run the tests with `make test`"),
    };
    let mut command = Command::new(python);
    command.args(["-c", script, &app.url("http", "/v1")]).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    if let Some(authority) = authority {
        command.env("SSL_CERT_FILE", authority.file());
    }
    let output = soon("the end of the script", command.output()).await.expect("Python");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

#[actix_web::test]
async fn the_openai_sdk_reads_a_stream_that_began_with_its_place_in_the_line() {
    let app = TestApp::with(|config| config.queue.timeout = Duration::from_secs(2)).await;
    let endpoint = FakeEndpoint::start(&["m"]).await;
    app.register("gpu-1", &endpoint, 1).await;
    endpoint.hold();
    let mut viewer = app.viewer().await;
    let gate = async {
        viewer.until_depth(1, 1).await;
        endpoint.release(2);
        viewer.until_depth(1, 1).await;
        viewer.until_depth(0, 1).await;
        endpoint.release(1);
        viewer.until_depth(0, 0).await;
    };
    futures_util::future::join(run(WAITING_SCRIPT, &app, None), gate).await;
    app.finish().await;
}

/// Lets the SDK do everything that it expects to work.
async fn satisfy(app: TestApp, authority: Option<&Authority>) {
    let endpoint = FakeEndpoint::start(&["m"]).await;
    let id = app.register("gpu-1", &endpoint, 2).await;
    endpoint.script(|received| match received.json()["messages"].is_string() {
        true => json_answer(400, r#"{"error":{"message":"of the endpoint","type":"x","param":null,"code":null}}"#),
        false => polite(received),
    });
    run(SCRIPT, &app, authority).await;
    app.until_endpoint(&id, "free", |endpoint| endpoint["in_flight"] == 0).await;
    app.finish().await;
}

#[actix_web::test]
async fn the_openai_sdk_finds_what_it_expects() {
    satisfy(TestApp::start().await, None).await;
}

#[actix_web::test]
async fn the_openai_sdk_finds_what_it_expects_over_tls() {
    let authority = Authority::new();
    satisfy(TestApp::with_tls(&authority, |_| {}).await, Some(&authority)).await;
}
