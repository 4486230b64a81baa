//! Answers to input that never became a request. hyper does not see this input.

use crate::{
    domain::problem::Problem,
    server::{FramingError, Rejection},
};

/// Returns the whole HTTP answer, with status line and headers, to input that is not a valid request.
pub(super) fn answer_to(rejection: Rejection) -> String {
    match rejection {
        Rejection::TimedOut => timed_out(),
        Rejection::PlainHttp => plain_http(),
        Rejection::Malformed(fault) => malformed(fault),
    }
}

/// The answer to a request whose head did not arrive in time.
fn timed_out() -> String {
    answer("408 Request Timeout", "", Problem::RequestTimeout, "The head of the request did not come in time.")
}

/// The answer to a client that sent plain HTTP to a TLS port.
fn plain_http() -> String {
    let message = "This port speaks TLS, but the request came in plain HTTP. Use https:// in the URL.";
    answer("400 Bad Request", "x-should-retry: false\r\n", Problem::InvalidFraming, message)
}

/// The answer to input that is not valid HTTP.
fn malformed(fault: FramingError) -> String {
    let (status, problem) = match fault {
        FramingError::HeadTooLarge => ("431 Request Header Fields Too Large", Problem::HeadTooLarge),
        _ => ("400 Bad Request", Problem::InvalidFraming),
    };
    let message = match fault {
        FramingError::RequestLine => {
            "The request does not begin with a method, a target and HTTP/1.0 or HTTP/1.1. Send a correct request line, \
             and escape non-ASCII characters in the target (%E4)."
        }
        FramingError::LineEnding => "A line of the request's head does not end with CR LF. End each line with CR LF.",
        FramingError::Folding => {
            "A header line begins with white space. Send each header on one line, without white space in front."
        }
        FramingError::Header => {
            "A header of the request has a forbidden byte or no colon. Send each header as `name: value`."
        }
        FramingError::Host => "The request must have exactly one Host header, and the value must be one host.",
        FramingError::ContentLength => {
            "The request must have at most one Content-Length header, and the value must be one number."
        }
        FramingError::TransferEncoding => {
            "The Transfer-Encoding header may only be `chunked`, once, and in HTTP/1.1. Send the body in that form, or \
             with Content-Length."
        }
        FramingError::TwoLengths => {
            "The request has both a Content-Length and a Transfer-Encoding header. Send only one of the two."
        }
        FramingError::Chunk => {
            "The body of the request has malformed chunks. Send correct chunks, or a Content-Length header."
        }
        FramingError::HeadTooLarge => {
            "The head of the request may have at most 64 KiB and at most 100 headers. Send fewer or shorter headers."
        }
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
