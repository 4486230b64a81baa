//! What a client gets when providers fail, and how often each of them is asked.

mod matrix;
mod more;
mod settings;
