//! Keys and strings: skipped, compared in place, read, or reported in pieces.

use super::{
    JsonErrorKind, KeyVisitor, STRING_LIMIT, Scanner, State, StringInterest, Value,
    find::{has_control, quote_or_backslash},
};

impl<S: KeyVisitor> Scanner<S> {
    /// Skips a run of a string and the byte that ends the run. Returns the next state and the number of bytes read.
    #[inline]
    pub(super) fn skip(&self, rest: &[u8]) -> (State, usize) {
        match quote_or_backslash(rest) {
            None => (State::Skip, rest.len()),
            Some(run) if rest[run] == b'"' => (if self.is_key { State::Colon } else { State::After }, run + 1),
            Some(run) if run + 1 < rest.len() => (State::Skip, run + 2),
            Some(run) => (State::SkipEscaped, run + 1),
        }
    }

    /// Reads the text after the quote of a key. Returns the next state and the number of bytes read.
    ///
    /// Nearly every key ends in this piece and has no escape. Such a key is compared in place.
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
                    self.seek.key(key, at).map_err(|kind| (kind, at))?;
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

    /// Reads the text after the quote of a string value. Returns the next state and the number of bytes read.
    #[inline]
    pub(super) fn begin_string(&mut self, rest: &[u8], at: u64) -> Result<(State, usize), (JsonErrorKind, u64)> {
        self.is_key = false;
        let interest = self.seek.interest();
        if interest != StringInterest::Pieces && !self.keeps_value() {
            let run = quote_or_backslash(rest);
            if interest == StringInterest::Nothing {
                return self.skipped(rest, run, at + 1, State::After);
            }
            match run {
                // Nearly every string: it is reported in place.
                Some(run) if rest[run] == b'"' => {
                    let (text, range) = (&rest[..run], at..at + run as u64 + 2);
                    self.no_control(text, at + 1)?;
                    let reported = match interest {
                        StringInterest::Value => self.seek.value(range, Some(text)),
                        _ => self.seek.text(range, plain(text)),
                    };
                    reported.map_err(|kind| (kind, at))?;
                    return Ok((State::After, run + 1));
                }
                _ if interest == StringInterest::Text => {}
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
        Ok((if interest == StringInterest::Pieces { State::Pieces } else { State::Text }, 0))
    }

    /// Skips a string up to `run`, the position of the first quote or backslash; to its end if `run` is a quote.
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
            // The next state reads the backslash again.
            Some(run) => (State::Skip, run),
            None => (State::Skip, rest.len()),
        })
    }

    /// Handles the end of a key that has an escape, is long, or arrived in pieces.
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
            self.seek.key(key, self.token_at)?;
        }
        Ok(())
    }

    /// Handles the end (before `end`) of a string that was read.
    pub(super) fn string(&mut self, end: u64) -> Result<(), JsonErrorKind> {
        let range = self.token_at..end;
        match self.seek.interest() {
            StringInterest::Text => self.seek.text(range, self.text.short())?,
            StringInterest::Value => self.seek.value(range, self.text.short().map(str::as_bytes))?,
            StringInterest::Nothing | StringInterest::Pieces => {}
        }
        if self.keeps_value() {
            self.watch.put(self.token_at..end, self.text.value());
        }
        Ok(())
    }

    /// Handles the end (before `end`) of a string that was reported in pieces. A path does not get its contents.
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
    if text.len() > STRING_LIMIT || has_control(text) {
        return None;
    }
    std::str::from_utf8(text).ok()
}
