//! "Did you mean …": finds the name that is most like a misspelled one.

/// Returns the known name that is most like a misspelled name, if the difference is small enough for a typing error.
pub(super) fn nearest<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = wanted.chars().count().div_ceil(3);
    let near = names.into_iter().map(|name| (distance(wanted, name), name)).min_by_key(|(distance, _)| *distance)?;
    (near.0 <= limit).then_some(near.1)
}

/// Computes the Levenshtein distance, one row at a time. Letter case, and `-` or `_`, make no difference.
fn distance(a: &str, b: &str) -> usize {
    let fold = |c: char| if c == '-' { '_' } else { c.to_ascii_lowercase() };
    let b: Vec<char> = b.chars().map(fold).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, c) in a.chars().map(fold).enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, d) in b.iter().enumerate() {
            let replaced = corner + usize::from(c != *d);
            corner = row[j + 1];
            row[j + 1] = replaced.min(corner + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found_and_strangers_are_not() {
        let names = ["listen", "admin_listen", "max_body_mib"];
        assert_eq!(nearest("lisen", names), Some("listen"));
        assert_eq!(nearest("Max-Body-MiB", names), Some("max_body_mib"));
        assert_eq!(nearest("inof", ["error", "info"]), Some("info"));
        assert_eq!(nearest("colour", names), None);
        assert_eq!(nearest("listen", []), None);
    }
}
