//! The cases: one line of the table each.

use async_compression::tokio::bufread::{BrotliEncoder, GzipEncoder, ZlibEncoder, ZstdEncoder};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::oneshot,
};

use crate::support::upstream::Step;

const RESPONSES: &str = "/v1/responses";
const CHAT: &str = "/v1/chat/completions";
const EMBEDDINGS: &str = "/v1/embeddings";

const JSON: &str = "application/json";
const SSE: &str = "text/event-stream";

/// 62 tokens; 20 repetitions have 1241, as `o200k_base` counts.
const ENGLISH: &str = "The gateway stands between the programs that people already use and the providers that answer them. It decides which account answers a request, and hands back what the provider sends without changing a byte. Every call leaves one row in the ledger, however it ends, and the row says how much of its cost is known. ";

/// 78 tokens.
const CHINESE: &str = "网关位于人们已经使用的程序和回答它们的供应商之间。它决定由哪个账户来回答一个请求,并把供应商发送的内容一字不差地交还给客户端。每一次调用都会在账本中留下一行记录,无论它如何结束,这一行都会说明其中有多少费用是已知的。";

/// 86 tokens.
const CODE: &str = "    pub fn settle(&mut self, end: End) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        self.outcome.end = end;
        self.outcome.took = self.began.elapsed();
        if let Some(ledger) = &self.ledger {
            ledger.settle(&Row::settled(&self.outcome));
        }
    }
";

/// Tokens that the provider bills.
#[derive(Clone, Copy, Default)]
pub(super) struct BilledTokens {
    pub(super) input: u64,
    pub(super) cached: u64,
    pub(super) output: u64,
}

/// When the client leaves.
#[derive(Clone, Copy)]
pub(super) enum ClientLeaves {
    Never,
    /// After so many bytes of a stream, which then sends nothing more.
    AfterBytes(usize),
}

/// How an answer ends.
#[derive(Clone, Copy)]
enum Ends {
    Clean,
    /// The client leaves before the answer ends.
    Silent,
    Broken,
}

/// One answer with its request, its end and the expected charge.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) path: &'static str,
    /// Bytes of the input's text.
    input: usize,
    status: &'static str,
    headers: String,
    body: Vec<u8>,
    coding: Option<&'static str>,
    ends: Ends,
    pub(super) leave: ClientLeaves,
    pub(super) truth: BilledTokens,
    pub(super) state: &'static str,
    pub(super) end: &'static str,
}

impl Case {
    /// A whole answer.
    fn new(name: &'static str, path: &'static str, media: &str, body: impl Into<Vec<u8>>) -> Self {
        let headers = if media.is_empty() { String::new() } else { format!("content-type: {media}\r\n") };
        Self {
            name,
            path,
            input: 400,
            status: "200 OK",
            headers,
            body: body.into(),
            coding: None,
            ends: Ends::Clean,
            leave: ClientLeaves::Never,
            truth: BilledTokens::default(),
            state: "exact",
            end: "completed",
        }
    }

    fn exact(self, input: u64, cached: u64, output: u64) -> Self {
        Self { truth: BilledTokens { input, cached, output }, ..self }
    }

    /// The answer has no usage. The output has so many tokens, and the input a little over 100.
    fn without_usage(self, output: u64) -> Self {
        Self { truth: BilledTokens { input: 115, cached: 0, output }, state: "partial", ..self }
    }

    fn free(self, end: &'static str) -> Self {
        Self { truth: BilledTokens::default(), end, ..self }
    }

    fn ends(self, end: &'static str) -> Self {
        Self { end, ..self }
    }

    fn coded(self, coding: &'static str, header: bool) -> Self {
        let headers = if header { format!("{}content-encoding: {coding}\r\n", self.headers) } else { self.headers };
        Self { headers, coding: Some(coding), ..self }
    }

    fn left_after(self, bytes: usize) -> Self {
        Self { ends: Ends::Silent, leave: ClientLeaves::AfterBytes(bytes), end: "client_gone", ..self }
    }

    /// The body of the request.
    pub(super) fn request(&self) -> String {
        let text = &ENGLISH.repeat(self.input.div_ceil(ENGLISH.len()))[..self.input];
        match self.path {
            RESPONSES | EMBEDDINGS => format!(r#"{{"model":"smart","input":"{text}"}}"#),
            _ => format!(r#"{{"model":"smart","messages":[{{"role":"user","content":"{text}"}}]}}"#),
        }
    }

    /// The steps of the upstream.
    pub(super) async fn steps(&self) -> Vec<Step> {
        if self.status.is_empty() {
            return vec![if self.ends_broken() { Step::Reset } else { Step::Close }];
        }
        let body = match self.coding {
            None => self.body.clone(),
            Some(coding) => encode(coding, &self.body).await,
        };
        let head = format!("HTTP/1.1 {}\r\n{}", self.status, self.headers);
        match self.ends {
            Ends::Clean if !self.headers.contains(SSE) => {
                vec![Step::Send([format!("{head}content-length: {}\r\n\r\n", body.len()).as_bytes(), &body].concat())]
            }
            ends => {
                let mut sent = format!("{head}transfer-encoding: chunked\r\n\r\n").into_bytes();
                for piece in body.chunks(1460) {
                    sent.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                    sent.extend_from_slice(piece);
                    sent.extend_from_slice(b"\r\n");
                }
                match ends {
                    Ends::Clean => {
                        sent.extend_from_slice(b"0\r\n\r\n");
                        vec![Step::Send(sent)]
                    }
                    Ends::Silent => vec![Step::Send(sent), Step::UntilClosed(oneshot::channel().0)],
                    Ends::Broken => vec![Step::Send(sent), Step::Close],
                }
            }
        }
    }

    fn ends_broken(&self) -> bool {
        matches!(self.ends, Ends::Broken)
    }
}

pub(crate) async fn encode(coding: &str, plain: &[u8]) -> Vec<u8> {
    let mut encoder: std::pin::Pin<Box<dyn AsyncRead + Send + '_>> = match coding {
        "gzip" => Box::pin(GzipEncoder::new(plain)),
        "deflate" => Box::pin(ZlibEncoder::new(plain)),
        "br" => Box::pin(BrotliEncoder::new(plain)),
        _ => Box::pin(ZstdEncoder::new(plain)),
    };
    let mut coded = Vec::new();
    encoder.read_to_end(&mut coded).await.unwrap();
    coded
}

fn text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A whole response with this text; `usage` is the JSON text of its usage.
fn response(words: &str, usage: &str) -> String {
    format!(
        r#"{{"id":"resp_1","object":"response","status":"completed","model":"real","output":[{{"type":"message","id":"msg_1","role":"assistant","content":[{{"type":"output_text","text":{},"annotations":[]}}]}}]{usage}}}"#,
        text(words)
    )
}

fn events(events: &[String]) -> String {
    events.iter().map(|event| format!("data: {event}\n\n")).collect()
}

/// The events of a response up to its last piece of text.
fn deltas(words: &str, pieces: usize) -> String {
    let created = r#"{"type":"response.created","response":{"id":"resp_1","object":"response","status":"in_progress","model":"real","output":[],"usage":null}}"#;
    let size = words.len().div_ceil(pieces);
    let mut all = vec![created.to_owned()];
    let mut rest = words;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.ceil_char_boundary(size));
        all.push(format!(
            r#"{{"type":"response.output_text.delta","item_id":"msg_1","output_index":0,"content_index":0,"delta":{}}}"#,
            text(piece)
        ));
        rest = after;
    }
    events(&all)
}

/// The last events of a response, which repeat its text.
fn done(words: &str, kind: &str, usage: &str) -> String {
    let item = format!(
        r#"{{"type":"message","id":"msg_1","role":"assistant","content":[{{"type":"output_text","text":{}}}]}}"#,
        text(words)
    );
    events(&[
        format!(r#"{{"type":"response.output_text.done","item_id":"msg_1","text":{}}}"#, text(words)),
        format!(r#"{{"type":"response.output_item.done","item":{item}}}"#),
        format!(
            r#"{{"type":"response.{kind}","response":{{"id":"resp_1","object":"response","status":"{kind}","model":"real","output":[{item}]{usage}}}}}"#
        ),
    ])
}

/// A whole chat completion.
fn completion(words: &str, usage: &str) -> String {
    format!(
        r#"{{"id":"chatcmpl-1","object":"chat.completion","model":"real","choices":[{{"index":0,"message":{{"role":"assistant","content":{}}},"finish_reason":"stop"}}]{usage}}}"#,
        text(words)
    )
}

fn chunk(choices: &str, usage: &str) -> String {
    format!(
        r#"data: {{"id":"chatcmpl-1","object":"chat.completion.chunk","model":"real","choices":[{choices}]{usage}}}"#
    ) + "\n\n"
}

/// The chunks of a chat with this text in the field `name`, in pieces.
fn chunks(name: &str, words: &str, pieces: usize) -> String {
    let size = words.len().div_ceil(pieces);
    let (mut all, mut rest) = (String::new(), words);
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.ceil_char_boundary(size));
        all += &chunk(&format!(r#"{{"index":0,"delta":{{"{name}":{}}}}}"#, text(piece)), "");
        rest = after;
    }
    all
}

fn stop() -> String {
    chunk(r#"{"index":0,"delta":{},"finish_reason":"stop"}"#, "")
}

/// The same, where each piece repeats all pieces before it.
fn repeating_chunks(words: &str, pieces: usize) -> String {
    let size = words.len().div_ceil(pieces);
    let ends = (1..=pieces).map(|nth| words.ceil_char_boundary(nth * size));
    ends.map(|end| chunk(&format!(r#"{{"index":0,"delta":{{"content":{}}}}}"#, text(&words[..end])), "")).collect()
}

/// A reasoning item with so many encrypted bytes.
fn reasoning(encrypted_bytes: usize) -> String {
    let item = |encrypted_bytes: usize| {
        format!(
            r#"{{"type":"reasoning","id":"rs_1","summary":[],"encrypted_content":"{}"}}"#,
            "g".repeat(encrypted_bytes)
        )
    };
    events(&[
        format!(r#"{{"type":"response.output_item.added","output_index":0,"item":{}}}"#, item(0)),
        format!(r#"{{"type":"response.output_item.done","output_index":0,"item":{}}}"#, item(encrypted_bytes)),
    ])
}

/// The number of encrypted bytes for so many reasoning tokens.
fn encrypted_bytes(tokens: usize) -> usize {
    (tokens * 4 + 650) * 4 / 3
}

const DONE: &str = "data: [DONE]\n\n";

const OPENAI: &str = r#","usage":{"input_tokens":100,"input_tokens_details":{"cached_tokens":40},"output_tokens":70,"output_tokens_details":{"reasoning_tokens":8},"total_tokens":170}"#;
const CHAT_USAGE: &str = r#","usage":{"prompt_tokens":100,"completion_tokens":70,"total_tokens":170,"prompt_tokens_details":{"cached_tokens":40},"completion_tokens_details":{"reasoning_tokens":8}}"#;
const ZEROS: &str = r#","usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}"#;

/// All cases.
pub(super) fn all() -> Vec<Case> {
    [
        responses_with_usage(),
        chats_with_usage(),
        without_usage(),
        left_by_the_client(),
        failed(),
        with_other_content_types(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn responses_with_usage() -> Vec<Case> {
    let incomplete = r#","incomplete_details":{"reason":"max_output_tokens"}"#.to_owned() + OPENAI;
    vec![
        Case::new("responses, JSON", RESPONSES, JSON, response(ENGLISH, OPENAI)).exact(100, 40, 70),
        Case::new("responses, stream", RESPONSES, SSE, deltas(ENGLISH, 60) + &done(ENGLISH, "completed", OPENAI))
            .exact(100, 40, 70),
        Case::new(
            "responses, stream, incomplete",
            RESPONSES,
            SSE,
            deltas(ENGLISH, 60) + &done(ENGLISH, "incomplete", &incomplete),
        )
        .exact(100, 40, 70)
        .ends("response_incomplete"),
        Case::new("responses, counts in front of the output (DMXAPI)", RESPONSES, JSON, {
            let front = OPENAI.trim_start_matches(',');
            response(ENGLISH, "").replacen('{', &format!("{{{front},"), 1)
        })
        .exact(100, 40, 70),
        Case::new(
            "responses, numeric strings",
            RESPONSES,
            JSON,
            response(ENGLISH, r#","usage":{"input_tokens":"100","output_tokens":"70","total_tokens":"170"}"#),
        )
        .exact(100, 0, 70),
        Case::new(
            "responses, ends with response.done (ModelVerse)",
            RESPONSES,
            SSE,
            deltas(ENGLISH, 9) + &done(ENGLISH, "done", OPENAI),
        )
        .exact(100, 40, 70),
        Case::new(
            "responses, completed and then an error",
            RESPONSES,
            SSE,
            deltas(ENGLISH, 9)
                + &done(ENGLISH, "completed", OPENAI)
                + &events(&[r#"{"type":"error","code":"x"}"#.into()]),
        )
        .exact(100, 40, 70),
        Case::new(
            "embeddings, the total alone",
            EMBEDDINGS,
            JSON,
            r#"{"object":"list","data":[{"object":"embedding","embedding":[0.1]}],"usage":{"total_tokens":100}}"#,
        )
        .exact(100, 0, 0),
    ]
}

#[rustfmt::skip]
fn chats_with_usage() -> Vec<Case> {
    let json = |name, usage: &str| Case::new(name, CHAT, JSON, completion(ENGLISH, usage));
    let last = |name, usage: &str| Case::new(name, CHAT, SSE, chunks("content", ENGLISH, 60) + &stop() + &chunk("", usage) + DONE);
    vec![
        json("chat, JSON", CHAT_USAGE).exact(100, 40, 70),
        last("chat, stream with include_usage", CHAT_USAGE).exact(100, 40, 70),
        json("chat, xAI: reasoning beside", r#","usage":{"prompt_tokens":32,"completion_tokens":70,"total_tokens":196,"completion_tokens_details":{"reasoning_tokens":94}}"#).exact(32, 0, 164),
        last("chat, xAI, stream: less reasoning than text", r#","usage":{"prompt_tokens":32,"completion_tokens":70,"total_tokens":112,"completion_tokens_details":{"reasoning_tokens":10}}"#).exact(32, 0, 80),
        json("chat, DeepSeek", r#","usage":{"prompt_tokens":100,"completion_tokens":70,"total_tokens":170,"prompt_cache_hit_tokens":64,"prompt_cache_miss_tokens":36}"#).exact(100, 64, 70),
        last("chat, DeepSeek, stream, no sum", r#","usage":{"completion_tokens":70,"prompt_cache_hit_tokens":64,"prompt_cache_miss_tokens":36}"#).exact(100, 64, 70),
        json("chat, Moonshot: cached_tokens", r#","usage":{"prompt_tokens":100,"completion_tokens":70,"total_tokens":170,"cached_tokens":64}"#).exact(100, 64, 70),
        Case::new("chat, Kimi: usage in the choice", CHAT, SSE, chunks("content", ENGLISH, 9)
            + &chunk(r#"{"index":0,"delta":{},"finish_reason":"stop","usage":{"prompt_tokens":100,"completion_tokens":70,"total_tokens":170,"cached_tokens":64}}"#, "") + DONE).exact(100, 64, 70),
        json("chat, Anthropic: 10 prompt, 900,000 cached", r#","usage":{"prompt_tokens":10,"completion_tokens":70,"total_tokens":80,"prompt_tokens_details":{"cached_tokens":900000}}"#).exact(900_010, 900_000, 70),
        json("chat, Anthropic's own names", r#","usage":{"input_tokens":1000,"cache_read_input_tokens":500,"output_tokens":70}"#).exact(1500, 500, 70),
        json("chat, Anthropic's names beside OpenAI's (LiteLLM)", r#","usage":{"prompt_tokens":1000,"completion_tokens":70,"total_tokens":1070,"cache_read_input_tokens":500,"prompt_tokens_details":{"cached_tokens":500}}"#).exact(1000, 500, 70),
        Case::new("chat, zeros in a last chunk", CHAT, SSE, chunks("content", ENGLISH, 9) + &stop() + &chunk("", CHAT_USAGE) + &chunk("", ZEROS) + DONE).exact(100, 40, 70),
        json("chat, floats", r#","usage":{"prompt_tokens":100.0,"completion_tokens":70.0,"total_tokens":170.0}"#).exact(100, 0, 70),
        json("chat, numeric strings", r#","usage":{"prompt_tokens":"100","completion_tokens":"70"}"#).exact(100, 0, 70),
        Case::new("chat, Perplexity: counts in each chunk, no [DONE]", CHAT, SSE, chunk(r#"{"delta":{"content":"a"}}"#, r#","usage":{"prompt_tokens":100,"completion_tokens":1}"#)
            + &chunk(r#"{"delta":{"content":"b"},"finish_reason":"stop"}"#, r#","usage":{"prompt_tokens":100,"completion_tokens":70}"#)).exact(100, 0, 70),
        Case::new("chat, Groq: x_groq.usage", CHAT, SSE, chunks("content", ENGLISH, 9)
            + &chunk(r#"{"delta":{},"finish_reason":"stop"}"#, r#","x_groq":{"id":"req_1","usage":{"prompt_tokens":100,"completion_tokens":70,"total_tokens":170}}"#) + DONE).exact(100, 0, 70),
        json("chat, new-api: both names, zeros under one", r#","usage":{"prompt_tokens":100,"completion_tokens":70,"total_tokens":170,"input_tokens":0,"output_tokens":0}"#).exact(100, 0, 70),
        json("chat, Gemini: thoughts in the total only", r#","usage":{"prompt_tokens":100,"completion_tokens":70,"total_tokens":370}"#).exact(100, 0, 270),
        Case::new("chat, Cerebras: no [DONE]", CHAT, SSE, chunks("content", ENGLISH, 9) + &chunk(r#"{"delta":{},"finish_reason":"stop"}"#, CHAT_USAGE)).exact(100, 40, 70),
    ]
}

#[rustfmt::skip]
fn without_usage() -> Vec<Case> {
    let (english, chinese, code) = (ENGLISH.repeat(20), CHINESE.repeat(20), CODE.repeat(20));
    let arguments = |code: &str| {
        let quoted = text(&text(code));
        chunk(&format!(r#"{{"delta":{{"tool_calls":[{{"index":0,"id":"call_1","function":{{"name":"apply","arguments":{quoted}}}}}]}}}}"#), "")
            + &chunk(r#"{"delta":{},"finish_reason":"tool_calls"}"#, "") + DONE
    };
    vec![
        Case::new("chat, no counts, no [DONE], English", CHAT, SSE, chunks("content", &english, 1200) + &stop()).without_usage(1241),
        Case::new("chat, no counts, no [DONE], Chinese", CHAT, SSE, chunks("content", &chinese, 1200) + &stop()).without_usage(1560),
        Case::new("chat, no counts, [DONE], code", CHAT, SSE, chunks("content", &code, 1200) + &stop() + DONE).without_usage(1720),
        Case::new("chat, no counts, ten words", CHAT, SSE, chunks("content", "Yes, this is a short answer of ten words only.", 10) + &stop() + DONE).without_usage(11),
        Case::new("chat, no counts, arguments of a tool", CHAT, SSE, arguments(&code)).without_usage(1900),
        Case::new("chat, no counts, reasoning_content", CHAT, SSE, chunks("reasoning_content", &english, 60) + &chunks("content", "Yes.", 1) + &stop() + DONE).without_usage(1243),
        Case::new("chat, no counts, the same reasoning twice (vLLM)", CHAT, SSE,
            chunks("reasoning_content", &english, 60).replace("\"delta\":{", "\"delta\":{\"reasoning\":\"\",") + &chunks("reasoning", &english, 60) + &stop() + DONE).without_usage(1241),
        Case::new("chat, no counts, one delta of 100 KB", CHAT, SSE, chunks("content", &ENGLISH.repeat(318), 1) + &stop() + DONE).without_usage(19_717),
        Case::new("chat, no counts, JSON", CHAT, JSON, completion(&english, "")).without_usage(1241),
        Case::new("chat, zeros beside the text", CHAT, JSON, completion(&english, ZEROS)).without_usage(1241),
        Case::new("chat, no finish_reason, no [DONE]", CHAT, SSE, chunks("content", &english, 60)).without_usage(1241).ends("incomplete"),
        Case::new("responses, no counts, JSON, Chinese", RESPONSES, JSON, response(&chinese, "")).without_usage(1560),
        Case::new("responses, no counts, stream", RESPONSES, SSE, deltas(&english, 200) + &done(&english, "completed", "")).without_usage(1241),
        Case::new("responses, no counts, items without deltas", RESPONSES, SSE, deltas("", 1) + &done(&english, "completed", "")).without_usage(1241),
        Case::new("responses, failed behind its text", RESPONSES, SSE, deltas(&english, 200)
            + &events(&[r#"{"type":"response.failed","response":{"id":"resp_1","status":"failed","error":{"code":"server_error"},"usage":null}}"#.into()])).without_usage(1241).ends("response_failed"),
        Case::new("responses, the input is 40,000 bytes", RESPONSES, SSE, deltas(&english, 200) + &done(&english, "completed", "")).large_input().without_usage_of(8_000, 1241),
    ]
}

impl Case {
    fn large_input(self) -> Self {
        Self { input: 40_000, ..self }
    }

    fn without_usage_of(self, input: u64, output: u64) -> Self {
        Self { truth: BilledTokens { input, cached: 0, output }, state: "partial", ..self }
    }

    fn breaks(self) -> Self {
        Self { ends: Ends::Broken, end: "upstream_broken", ..self }
    }
}

#[rustfmt::skip]
fn left_by_the_client() -> Vec<Case> {
    let english = ENGLISH.repeat(20);
    let large = ENGLISH.repeat(318);
    let many = deltas(&english, 200);
    let one = deltas(&large, 1);
    let chat = chunks("content", &english, 200) + &stop();
    let hidden = |bytes| many.replacen("\n\n", &format!("\n\n{}", reasoning(bytes)), 1);
    let repeating = repeating_chunks(&english, 100);
    let (many_bytes, one_bytes, chat_bytes) = (many.len(), one.len(), chat.len());
    vec![
        Case::new("responses, left before response.completed", RESPONSES, SSE, many.clone()).without_usage(1241).left_after(many_bytes),
        Case::new("responses, left after one delta of 100 KB", RESPONSES, SSE, one).without_usage(19_717).left_after(one_bytes),
        Case::new("chat, left before [DONE]", CHAT, SSE, chat).without_usage(1241).left_after(chat_bytes),
        Case::new("responses, the upstream breaks", RESPONSES, SSE, many.clone()).without_usage(1241).breaks(),
        Case::new("responses, 10,000 hidden tokens, left at the text", RESPONSES, SSE, hidden(0)).without_usage(11_241).left_after(hidden(0).len()),
        Case::new("responses, 10,000 encrypted tokens, left at the text", RESPONSES, SSE, hidden(encrypted_bytes(10_000))).without_usage(11_241).left_after(hidden(encrypted_bytes(10_000)).len()),
        Case::new("responses, 300 encrypted tokens, left at the text", RESPONSES, SSE, hidden(encrypted_bytes(300))).without_usage(1541).left_after(hidden(encrypted_bytes(300)).len()),
        Case::new("responses, 10,000 hidden tokens, no counts", RESPONSES, SSE, hidden(0) + &done(&english, "completed", "")).without_usage(11_241),
        Case::new("chat, each chunk repeats all before, left", CHAT, SSE, repeating.clone()).without_usage(1241).left_after(repeating.len()),
        Case::new("chat, each chunk repeats all before, no counts", CHAT, SSE, repeating + &stop() + DONE).without_usage(1241),
    ]
}

#[rustfmt::skip]
fn failed() -> Vec<Case> {
    let error = r#"{"error":{"message":"no","type":"server_error","code":"overloaded"}}"#;
    let event = r#"{"type":"error","code":"server_error","message":"no"}"#.to_owned();
    let bare = |name, path, media, body: &str, end| Case::new(name, path, media, body).free(end);
    let status = |name, status| Case { status, ..Case::new(name, RESPONSES, "", "").free("refused") };
    vec![
        bare("error, JSON, responses", RESPONSES, JSON, error, "response_failed"),
        bare("error, JSON, chat", CHAT, JSON, error, "response_failed"),
        bare("error, JSON, embeddings", EMBEDDINGS, JSON, error, "response_failed"),
        bare("error, JSON, words", RESPONSES, JSON, r#"{"error":"quota exceeded"}"#, "response_failed"),
        bare("error, JSON, code and message", RESPONSES, JSON, r#"{"code":"InvalidApiKey","message":"no"}"#, "response_failed"),
        bare("error, JSON, success: false", CHAT, JSON, r#"{"success":false,"msg":"余额不足","data":null}"#, "response_failed"),
        bare("error, JSON, detail", CHAT, JSON, r#"{"detail":"Not Found"}"#, "response_failed"),
        bare("error, JSON, object: error (vLLM)", CHAT, JSON, r#"{"object":"error","message":"no","code":400}"#, "response_failed"),
        bare("error, JSON, zeros", CHAT, JSON, &error.replacen('}', &format!("}}{ZEROS}"), 1), "response_failed"),
        bare("error, JSON, an array (Gemini)", CHAT, JSON, &format!("[{error}]"), "response_failed"),
        bare("error, stream, responses", RESPONSES, SSE, &events(&[event]), "response_failed"),
        bare("error, stream, chunk and [DONE]", CHAT, SSE, &(format!("data: {error}\n\n") + DONE), "response_failed"),
        bare("error, stream, other words and [DONE]", CHAT, SSE, &(format!("data: {}\n\n", r#"{"message":"no","code":1001}"#) + DONE), "response_failed"),
        bare("error, stream, a frame of text", RESPONSES, SSE, "event: error\ndata: quota exceeded\n\n", "incomplete"),
        bare("error, stream, comments only", CHAT, SSE, ": ping\n\n: ping\n\n", "incomplete"),
        bare("error, stream, response.failed", RESPONSES, SSE, &events(&[r#"{"type":"response.failed","response":{"id":"resp_1","status":"failed","error":{"code":"server_error"},"usage":null}}"#.into()]), "response_failed"),
        bare("error, text", RESPONSES, "text/plain", "upstream connect error", "response_failed"),
        bare("error, XML", CHAT, "application/xml", "<Error><Code>AccessDenied</Code></Error>", "response_failed"),
        bare("error, HTML called JSON", CHAT, JSON, "<html><body>502</body></html>", "response_failed"),
        bare("error, HTML", CHAT, "text/html", "<html><body>sign in</body></html>", "refused"),
        bare("nothing, JSON", RESPONSES, JSON, "", "response_failed"),
        bare("nothing, chat", CHAT, "", "", "response_failed"),
        bare("nothing, an empty object", RESPONSES, JSON, "{}", "response_failed"),
        Case { headers: "location: https://example.com/\r\n".into(), ..status("a redirect", "302 Found") },
        status("closed before a byte", ""),
        Case { ends: Ends::Broken, ..status("reset before a byte", "") },
    ]
}

#[rustfmt::skip]
fn with_other_content_types() -> Vec<Case> {
    let stream = deltas(ENGLISH, 60) + &done(ENGLISH, "completed", OPENAI);
    let json = response(ENGLISH, OPENAI);
    let chat = chunks("content", ENGLISH, 9) + &stop() + &chunk("", CHAT_USAGE) + DONE;
    let error = r#"{"error":{"message":"no","type":"server_error"}}"#;
    vec![
        Case::new("JSON called a stream", RESPONSES, SSE, json.clone()).exact(100, 40, 70),
        Case::new("error in JSON called a stream", CHAT, SSE, error).free("response_failed"),
        Case::new("stream called JSON", RESPONSES, JSON, stream.clone()).exact(100, 40, 70),
        Case::new("stream called text", CHAT, "text/plain", chat.clone()).exact(100, 40, 70),
        Case::new("stream without a type", CHAT, "", chat.clone()).exact(100, 40, 70),
        Case::new("gzip, JSON", RESPONSES, JSON, json.clone()).exact(100, 40, 70).coded("gzip", true),
        Case::new("gzip, stream", RESPONSES, SSE, stream.clone()).exact(100, 40, 70).coded("gzip", true),
        Case::new("br, stream", CHAT, SSE, chat.clone()).exact(100, 40, 70).coded("br", true),
        Case::new("zstd, stream", RESPONSES, SSE, stream.clone()).exact(100, 40, 70).coded("zstd", true),
        Case::new("deflate, JSON", RESPONSES, JSON, json.clone()).exact(100, 40, 70).coded("deflate", true),
        Case::new("gzip that the head does not name", RESPONSES, JSON, json).exact(100, 40, 70).coded("gzip", false),
        Case::new("gzip, error", CHAT, JSON, error).free("response_failed").coded("gzip", true),
    ]
}

/// Answers whose client had everything that it wanted before the usage was sent.
pub(super) fn left_before_usage() -> Vec<Case> {
    let names = [
        "responses, left before response.completed",
        "responses, left after one delta of 100 KB",
        "chat, left before [DONE]",
        "chat, no counts, no [DONE], English",
        "chat, no counts, one delta of 100 KB",
        "responses, the input is 40,000 bytes",
        "responses, 10,000 hidden tokens, left at the text",
        "responses, 10,000 encrypted tokens, left at the text",
    ];
    all().into_iter().filter(|case| names.contains(&case.name)).collect()
}
