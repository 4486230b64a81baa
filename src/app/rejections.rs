//! Answers to input that never became a request. hyper does not see this input.

use crate::{
    domain::problem::Problem,
    server::{FramingError, Rejection},
};

/// The whole answer, with status line and headers.
pub(super) fn answer_to(rejection: Rejection) -> String {
    match rejection {
        Rejection::TimedOut => timed_out(),
        Rejection::PlainHttp => plain_http(),
        Rejection::Malformed(fault) => malformed(fault),
    }
}

/// The request's head did not arrive in time.
fn timed_out() -> String {
    answer("408 Request Timeout", "", Problem::RequestTimeout, "The head of the request did not come in time.")
}

/// The client sent plain HTTP to a TLS port.
fn plain_http() -> String {
    let message = "This port speaks TLS, and the request came in plain http: use https:// in the URL.";
    answer("400 Bad Request", "x-should-retry: false\r\n", Problem::InvalidFraming, message)
}

/// The input is not valid HTTP.
fn malformed(fault: FramingError) -> String {
    let (status, problem) = match fault {
        FramingError::HeadTooLarge => ("431 Request Header Fields Too Large", Problem::HeadTooLarge),
        _ => ("400 Bad Request", Problem::InvalidFraming),
    };
    let message = match fault {
        FramingError::RequestLine => {
            "The request does not begin with a method, a target and HTTP/1.0 or HTTP/1.1; what is not ASCII in the target is escaped (%E4)."
        }
        FramingError::LineEnding => "A line of the request's head does not end with CR LF.",
        FramingError::Folding => "A header line begins with white space.",
        FramingError::Header => "A header has a byte that it may not have, or no colon.",
        FramingError::Host => "The request needs one Host header, with one host in it.",
        FramingError::ContentLength => "Content-Length must be one number, and be there once.",
        FramingError::TransferEncoding => "Transfer-Encoding may only be `chunked`, once, and in HTTP/1.1.",
        FramingError::TwoLengths => "The request has both Content-Length and Transfer-Encoding.",
        FramingError::Chunk => "The chunks of the body are malformed.",
        FramingError::HeadTooLarge => "The head of the request is larger than 64 KiB, or has more than 100 headers.",
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
