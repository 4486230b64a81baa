//! The client's answer when providers fail, and the number of attempts at each provider.

mod attempts;
mod matrix;
mod settings;
