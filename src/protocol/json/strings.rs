//! Keys and strings: whether one is skipped, compared where it stands, read, or passed on.

use super::{JsonErrorKind, KeyVisitor, STRING_LIMIT, Scanner, State, StringInterest, Value, find::quote_or_backslash};

impl<S: KeyVisitor> Scanner<S> {
    /// A run of a string that is skipped, with what ends it. Gives the next state and how much was read.
    #[inline]
    pub(super) fn skip(&self, rest: &[u8]) -> (State, usize) {
        match quote_or_backslash(rest) {
            None => (State::Skip, rest.len()),
            Some(run) if rest[run] == b'"' => (if self.is_key { State::Colon } else { State::After }, run + 1),
            Some(run) if run + 1 < rest.len() => (State::Skip, run + 2),
            Some(run) => (State::SkipEscaped, run + 1),
        }
    }

    /// The text after the quote of a key. Gives the next state and how much was read.
    ///
    /// A key that ends in this piece and holds no escape, as nearly every one, is compared where it stands.
    #[inline]
    pub(super) fn begin_key(&mut self, rest: &[u8], at: u64) -> Result<(State, usize), (JsonErrorKind, u64)> {
        let run = quote_or_backslash(rest);
        let (watching, looking) = (self.watching(), self.seek.looks());
        if !watching && !looking {
            self.is_key = true;
            return self.skipped(rest, run, at + 1, State::Colon);
        }
        match run {
            Some(run) if rest[run] == b'"' && run <= STRING_LIMIT => {
                let key = &rest[..run];
                self.no_control(key, at + 1)?;
                if watching {
                    self.watch.key(key).map_err(|kind| (kind, at))?;
                }
                if looking {
                    self.seek.key(key).map_err(|kind| (kind, at))?;
                }
                Ok((State::Colon, run + 1))
            }
            _ => {
                self.is_key = true;
                self.token_at = at;
                self.text.begin(self.watch.checks_keys());
                Ok((State::Text, 0))
            }
        }
    }

    /// The text after the quote of a string that is a value. Gives the next state and how much was read.
    #[inline]
    pub(super) fn begin_string(&mut self, rest: &[u8], at: u64) -> Result<(State, usize), (JsonErrorKind, u64)> {
        self.is_key = false;
        let wish = self.seek.wish();
        if wish != StringInterest::Pieces && !self.keeps_value() {
            let run = quote_or_backslash(rest);
            if wish == StringInterest::Nothing {
                return self.skipped(rest, run, at + 1, State::After);
            }
            match run {
                // Nearly every one: it is looked at where it stands.
                Some(run) if rest[run] == b'"' => {
                    let (text, range) = (&rest[..run], at..at + run as u64 + 2);
                    self.no_control(text, at + 1)?;
                    let told = match wish {
                        StringInterest::Value => self.seek.value(range, Some(text)),
                        _ => self.seek.text(range, plain(text)),
                    };
                    told.map_err(|kind| (kind, at))?;
                    return Ok((State::After, run + 1));
                }
                _ if wish == StringInterest::Text => {}
                // At the end of a piece it may turn out to be empty.
                run if !rest.is_empty() && !self.seek.may_begin_value(&rest[..run.unwrap_or(rest.len())]) => {
                    self.seek.value(at..at, None).map_err(|kind| (kind, at))?;
                    return self.skipped(rest, run, at + 1, State::After);
                }
                _ => {}
            }
        }
        self.token_at = at;
        self.text.begin(false);
        Ok((if wish == StringInterest::Pieces { State::Pieces } else { State::Text }, 0))
    }

    /// Passes over the beginning of a string of which the first quote or backslash is at `run`: to its end, if that is it.
    #[inline]
    fn skipped(
        &self,
        rest: &[u8],
        run: Option<usize>,
        at: u64,
        next: State,
    ) -> Result<(State, usize), (JsonErrorKind, u64)> {
        self.no_control(&rest[..run.unwrap_or(rest.len())], at)?;
        Ok(match run {
            Some(run) if rest[run] == b'"' => (next, run + 1),
            // The backslash is looked at again.
            Some(run) => (State::Skip, run),
            None => (State::Skip, rest.len()),
        })
    }

    /// A key ended that has an escape, is long, or came in pieces.
    pub(super) fn long_key(&mut self) -> Result<(), JsonErrorKind> {
        let key = match self.text.key() {
            Ok(Some(key)) => key.as_bytes(),
            Err(()) if self.watch.checks_keys() && (self.watching() || self.seek.checks_keys()) => {
                return Err(JsonErrorKind::InvalidKey);
            }
            // Too long for any name, or no text.
            Ok(None) | Err(()) => &[],
        };
        if self.watching() {
            self.watch.key(key)?;
        }
        if self.seek.looks() {
            self.seek.key(key)?;
        }
        Ok(())
    }

    /// A string that is read ended before `end`.
    pub(super) fn string(&mut self, end: u64) -> Result<(), JsonErrorKind> {
        let range = self.token_at..end;
        match self.seek.wish() {
            StringInterest::Text => self.seek.text(range, self.text.short())?,
            StringInterest::Value => self.seek.value(range, self.text.short().map(str::as_bytes))?,
            StringInterest::Nothing | StringInterest::Pieces => {}
        }
        if self.keeps_value() {
            self.watch.put(self.token_at..end, self.text.value());
        }
        Ok(())
    }

    /// A string that was passed on ended before `end`. Of its contents a path learns nothing.
    pub(super) fn pieces_end(&mut self, end: u64) -> Result<(), JsonErrorKind> {
        self.seek.end(self.token_at..end, self.text.is_valid())?;
        if self.keeps_value() {
            self.watch.put(self.token_at..end, Value::LongString);
        }
        Ok(())
    }
}

/// A string without escapes, if it is short and text.
#[inline]
fn plain(text: &[u8]) -> Option<&str> {
    if text.len() > STRING_LIMIT || text.iter().any(|byte| *byte < 0x20) {
        return None;
    }
    std::str::from_utf8(text).ok()
}
