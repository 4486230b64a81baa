//! Estimates the tokens of a text from its bytes, for answers without usage.
//!
//! The rates come from the tokenizer `o200k_base`, and docs/charges.md states their error.

/// Tokens of one byte of Latin text, in twelfths: 4 bytes are a token.
const PLAIN: u8 = 3;

/// Tokens of one mark or digit, in twelfths: 2 of them are a token. Code and JSON have so many that 3 bytes of them are a token.
const MARK: u8 = 6;

/// Tokens of the first byte of a CJK character, in twelfths: 1.5 characters are a token, and two plain bytes follow.
const CJK: u8 = 8 - 2 * PLAIN;

/// Tokens of the first byte of other letters (Cyrillic, Greek, Hebrew, Arabic, Indic, Thai), in twelfths: 6 bytes are a token, and
/// one plain byte follows.
const OTHER: u8 = 4 - PLAIN;

/// Twelfths of a token in a token.
const WHOLE: u64 = 12;

/// Bytes that are weighed side by side.
const LANES: usize = 16;

/// Rows of a block. 32 of the largest weight fit a byte.
const ROWS: usize = 32;

/// An estimate of how many tokens a text has, counted from its bytes. Pieces may cut a UTF-8 character anywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextTally {
    twelfths: u64,
}

impl TextTally {
    /// Counts the next piece of a text into this estimate of tokens.
    pub fn add(&mut self, piece: &[u8]) {
        let mut before = 0;
        for block in piece.chunks(LANES * ROWS) {
            let (bytes, earlier) = (&block[1..], &block[..block.len() - 1]);
            let (rows, rest) = bytes.as_chunks::<LANES>();
            let (earlier_rows, earlier_rest) = earlier.as_chunks::<LANES>();
            let mut sum = u64::from(weight(block[0], before));
            for (byte, before) in rest.iter().zip(earlier_rest) {
                sum += u64::from(weight(*byte, *before));
            }
            if !rows.is_empty() {
                // The compiler makes vectors of this loop: 16 sums side by side, each small enough for a byte.
                let mut sums = [0u8; LANES];
                for (row, earlier) in rows.iter().zip(earlier_rows) {
                    for (sum, (byte, before)) in sums.iter_mut().zip(row.iter().zip(earlier)) {
                        *sum = sum.wrapping_add(weight(*byte, *before));
                    }
                }
                sum += sums.into_iter().map(u64::from).sum::<u64>();
            }
            self.twelfths += sum;
            before = bytes.last().copied().unwrap_or(block[0]);
        }
    }

    /// Returns the sum of two estimates of tokens.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { twelfths: self.twelfths.saturating_add(other.twelfths) }
    }

    /// Whether no text was counted into this estimate of tokens.
    pub fn is_empty(self) -> bool {
        self.twelfths == 0
    }

    /// Returns the estimated number of tokens of the text, rounded up.
    pub fn tokens(self) -> u64 {
        self.twelfths.div_ceil(WHOLE)
    }
}

/// Twelfths of a token for one byte and the byte before. Without branches, so that the compiler can make vectors.
fn weight(byte: u8, before: u8) -> u8 {
    let is_space = |byte: u8| (byte == b' ') | (byte == b'\n');
    let mark = is_in(byte, b'!', b'@') | is_in(byte, b'[', b'`') | is_in(byte, b'{', b'~');
    let weight = if mark { MARK } else { PLAIN };
    let weight = if is_in(byte, 0xE3, 0xED) { CJK } else { weight };
    let weight = if is_in(byte, 0xCD, 0xE0) { OTHER } else { weight };
    // A run of spaces is one token at most.
    if is_space(byte) & is_space(before) { 0 } else { weight }
}

/// Whether a byte lies between two others. Without branches.
fn is_in(byte: u8, first: u8, last: u8) -> bool {
    byte.wrapping_sub(first) <= last - first
}

/// Bytes of encrypted content that contain no text.
const ENVELOPE: u64 = 650;

/// Returns an estimate of the tokens of encrypted reasoning that has this many bytes of base64. Three quarters of the bytes, without the
/// envelope, are text; Codex counts in the same way.
pub fn of_sealed(bytes: u64) -> u64 {
    (bytes * 3 / 4).saturating_sub(ENVELOPE).div_ceil(4)
}

/// The block size for telling an encoded file from text, in bytes.
const BLOCK: usize = 256;

/// Returns how many bytes of `piece` look like an encoded file (base64) and not like text: whole blocks without a space, a quote or
/// another mark of text.
pub fn encoded_bytes(piece: &[u8]) -> u64 {
    let is_letter = |byte: u8| {
        let is_mark = (byte == b'+') | (byte == b'-') | (byte == b'_') | (byte == b'=');
        // The slash stands before the digits.
        is_in(byte, b'/', b'9') | is_in(byte, b'A', b'Z') | is_in(byte, b'a', b'z') | is_mark
    };
    let is_encoded = |block: &&[u8]| {
        // Text has a space or a quote within a few bytes, so the first bytes decide nearly every block of it. A file is read without
        // early exit: the compiler then checks many bytes at once.
        let (begin, rest) = block.split_at(LANES);
        begin.iter().all(|byte| is_letter(*byte)) && rest.iter().fold(true, |all, byte| all & is_letter(*byte))
    };
    piece.chunks_exact(BLOCK).filter(is_encoded).count() as u64 * BLOCK as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> u64 {
        let mut tally = TextTally::default();
        tally.add(text.as_bytes());
        tally.tokens()
    }

    #[test]
    fn tokens_by_script_are_near_those_of_a_tokenizer() {
        // The last number is what `o200k_base` makes of the text.
        let code = "    fn add(&mut self, piece: &[u8]) -> Result<(), Error> {\n        self.total += piece.len() as u64;\n    }\n";
        for (text, truth) in [
            ("The gateway reads the answer as it passes, and counts the tokens of its text.", 16),
            (code, 33),
            (r#"{"command":["bash","-lc","grep -rn 'fn main' src/7 | head -21"],"timeout_ms":10007}"#, 32),
            ("模型回答用户的问题,并逐段返回文本。每一段作为单独的事件到达。", 22),
            ("モデルは利用者の質問に答え、文章を少しずつ返します。", 17),
            ("모델은 사용자의 질문에 답하고 텍스트를 조금씩 돌려줍니다.", 17),
        ] {
            let ratio = tokens(text) as f64 / f64::from(truth);
            assert!((0.7..1.4).contains(&ratio), "{text:?}: {} for {truth}", tokens(text));
        }
        assert_eq!(tokens(""), 0);
        assert_eq!(tokens("a"), 1);
        assert_eq!(tokens(&"word ".repeat(20_000)), 25_000);
    }

    #[test]
    fn a_split_changes_a_count_by_at_most_one_token() {
        let text = "模型 and model, модель: {\"a\":  1}".repeat(20);
        let whole = tokens(&text);
        for cut in 0..text.len() {
            let mut tally = TextTally::default();
            tally.add(&text.as_bytes()[..cut]);
            tally.add(&text.as_bytes()[cut..]);
            assert!(tally.tokens().abs_diff(whole) <= 2, "{cut}");
        }
    }

    #[test]
    fn an_encoded_file_is_distinguished_from_text() {
        let file = "iVBORw0KGgoAAAANSUhEUg".repeat(1000);
        let body = format!(r#"{{"model":"m","input":[{{"image_url":"data:image/png;base64,{file}"}}]}}"#);
        let encoded = encoded_bytes(body.as_bytes());
        assert!(encoded > 21_000 && encoded <= file.len() as u64, "{encoded}");
        for text in ["plain English text with spaces ", "没有空格的中文文本也是文本", "{\"a\":1,\"b\":[2,3]}"]
        {
            assert_eq!(encoded_bytes(text.repeat(1000).as_bytes()), 0, "{text}");
        }
    }
}
