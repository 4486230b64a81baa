//! Answers to what never became a request: hyper has no part in them.

use crate::{
    domain::problem::Problem,
    server::{Fault, Rejection},
};

/// The whole answer.
pub(super) fn answer_to(rejection: Rejection) -> String {
    match rejection {
        Rejection::TimedOut => timed_out(),
        Rejection::PlainHttp => plain_http(),
        Rejection::Malformed(fault) => malformed(fault),
    }
}

/// The head did not come in time.
fn timed_out() -> String {
    answer("408 Request Timeout", "", Problem::RequestTimeout, "The head of the request did not come in time.")
}

/// Plain HTTP, where TLS is spoken.
fn plain_http() -> String {
    let message = "This port speaks TLS, and the request came in plain http: use https:// in the URL.";
    answer("400 Bad Request", "x-should-retry: false\r\n", Problem::InvalidFraming, message)
}

/// What came is not HTTP.
fn malformed(fault: Fault) -> String {
    let (status, problem) = match fault {
        Fault::HeadTooLarge => ("431 Request Header Fields Too Large", Problem::HeadTooLarge),
        _ => ("400 Bad Request", Problem::InvalidFraming),
    };
    let message = match fault {
        Fault::RequestLine => {
            "The request does not begin with a method, a target and HTTP/1.0 or HTTP/1.1; what is not ASCII in the target is escaped (%E4)."
        }
        Fault::LineEnding => "A line of the request's head does not end with CR LF.",
        Fault::Folding => "A header line begins with white space.",
        Fault::Header => "A header has a byte that it may not have, or no colon.",
        Fault::Host => "The request needs one Host header, with one host in it.",
        Fault::ContentLength => "Content-Length must be one number, and be there once.",
        Fault::TransferEncoding => "Transfer-Encoding may only be `chunked`, once, and in HTTP/1.1.",
        Fault::TwoLengths => "The request has both Content-Length and Transfer-Encoding.",
        Fault::Chunk => "The chunks of the body are malformed.",
        Fault::HeadTooLarge => "The head of the request is larger than 64 KiB, or has more than 100 headers.",
    };
    answer(status, "x-should-retry: false\r\n", problem, message)
}

fn answer(status: &str, headers: &str, problem: Problem, message: &str) -> String {
    let code = problem.name();
    let body =
        format!(r#"{{"error":{{"message":"{message}","type":"invalid_request_error","param":null,"code":"{code}"}}}}"#);
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nx-tidegate-error-source: gateway\r\n{headers}connection: close\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
}
